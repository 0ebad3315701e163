"""Where Outcrop and a peer list different things, and why: each with who is right.

A rule is (peer, image or None for any, side that alone lists it, pattern of the joined fields, reason).
"""
import re

RULES = []


def reason(peer, image, side, item):
    """Why only `side` lists `item`, or nothing where that is not known."""
    text = " ".join(item)
    for rule_peer, rule_image, rule_side, pattern, why in RULES:
        if rule_peer == peer and rule_image in (None, image) and rule_side == side and re.fullmatch(pattern, text):
            return why
    return None
