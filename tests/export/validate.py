#!/usr/bin/env python3
"""Holds documents of `outcrop export` and `outcrop scan` against validators that others wrote: validate.py SARIF_SCHEMA FILE...

A file's extension says what it is. The exit code is 1 if one of them is not valid.
"""
import csv
import json
import sys

import jsonschema
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

schema, *files = sys.argv[1:]
sys.setrecursionlimit(10_000)


def cyclonedx(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        return [str(error)[:2000]]
    # Read back as a consumer does: references have to lead somewhere.
    document = json.loads(text)
    bom = Bom.from_json(document)
    bom.validate()
    parts = [part for component in bom.components for part in [component, *component.components]]
    known = {str(part.bom_ref) for part in parts}
    if len(known) != len(parts):
        return ["a bom-ref occurs twice"]
    lost = [target.ref for vulnerability in bom.vulnerabilities for target in vulnerability.affects if target.ref not in known]
    return [f"affects unknown components: {lost[:5]}"] if lost else []


def spdx(path):
    return [f"{message.context.spdx_id}: {message.validation_message}" for message in validate_full_spdx_document(parse_file(path))]


def sarif(path):
    with open(schema, encoding="utf-8") as file:
        validator = jsonschema.Draft4Validator(json.load(file), format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    errors = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(document)]
    for run in document["runs"]:
        rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        errors += [f"no rule {result['ruleId']}" for result in run["results"] if result["ruleId"] not in rules]
    return errors


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file, strict=True)
    errors = [f"{len(row)} cells, expected {len(head)}: {row}" for row in rows if len(row) != len(head)]
    return errors + [f"a formula: {cell}" for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")]


KINDS = {".cdx.json": cyclonedx, ".spdx.json": spdx, ".sarif": sarif, ".csv": table}
failed = False
for path in files:
    check = next(check for extension, check in KINDS.items() if path.endswith(extension))
    for error in check(path):
        failed = True
        print(f"{path}: {error}", file=sys.stderr)
print(f"{len(files)} documents validated")
sys.exit(failed)
