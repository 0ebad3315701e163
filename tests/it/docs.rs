//! Checks that `docs/configuration.md` matches the flags. After a change of the flags: `UPDATE=1 cargo test --workspace --test it docs::`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// First lines of the page.
const HEAD: &str = "\
# Configuration

Generated from the flags of the programs by `UPDATE=1 cargo test --workspace --test it docs::`; `tests/it/docs.rs` fails when it is out of step.

Every setting is a flag. A named environment variable replaces the flag; if both are given, the flag counts. There is no configuration file.
The variable `OUTCROP_LOG` sets the filter of log events of every command: see [operations.md](operations.md#logs).
Exit codes: 0 done, 1 failed, 2 findings at or above `--fail-on`, 64 wrong usage.
";

/// Escapes a text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Returns the syntax of an argument.
fn name(argument: &clap::Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    match argument.get_long() {
        None if argument.is_positional() => values,
        long => {
            let short = argument.get_short().map(|short| format!("-{short}"));
            let names: Vec<String> = short.into_iter().chain(long.map(|long| format!("--{long}"))).collect();
            let takes = argument.get_action().takes_values();
            let values = if takes { format!(" {values}") } else { String::new() };
            format!("{}{values}", names.join(", "))
        }
    }
}

fn section(command: &clap::Command, path: &str, out: &mut String) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    writeln!(out, "\n## {path}\n\n{about}.").unwrap();
    let shown =
        |argument: &&clap::Arg| !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version");
    let arguments: Vec<&clap::Arg> = command.get_arguments().filter(shown).collect();
    if !arguments.is_empty() {
        writeln!(out, "\n| argument | default | environment | description |\n|---|---|---|---|").unwrap();
    }
    for argument in arguments {
        let default = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
        let default = match default.collect::<Vec<_>>().join(", ") {
            _ if argument.is_required_set() => "required".to_owned(),
            default if default.is_empty() || !argument.get_action().takes_values() => String::new(),
            default => format!("`{default}`"),
        };
        let environment = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let mut help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|value| {
                argument.get_action().takes_values() && !argument.is_hide_possible_values_set() && !value.is_hide_set()
            })
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() {
            write!(help, "; one of {}", values.join(", ")).unwrap();
        }
        writeln!(out, "| `{}` | {} | {environment} | {} |", cell(&name(argument)), cell(&default), cell(&help))
            .unwrap();
    }
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        section(command, &format!("{path} {}", command.get_name()), out);
    }
}

/// Appends the help of the agent, command by command, by running the program.
fn agent(path: &[&str], out: &mut String) {
    let program = Path::new(env!("CARGO_BIN_EXE_outcrop")).with_file_name("outcrop-agent");
    let output = Command::new(&program).args(path).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", program.display());
    let help = String::from_utf8(output.stdout).unwrap();
    let title = [&["outcrop-agent"], path].concat().join(" ");
    writeln!(out, "\n## {title}\n\n```text\n{}\n```", help.trim_end()).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Deeper lines continue the description of a command.
    let commands = commands.filter(|line| !line.starts_with("   "));
    for name in commands.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()) {
        if name != "help" {
            agent(&[path, &[name]].concat(), out);
        }
    }
}

#[test]
fn the_configuration_reference_matches_the_flags() {
    let mut page = HEAD.to_owned();
    let mut command = outcrop::cli::command();
    command.build();
    section(&command, "outcrop", &mut page);
    agent(&[], &mut page);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        page == written,
        "docs/configuration.md is out of step with the flags, first at {differs:?}: UPDATE=1 cargo test --workspace --test it docs::"
    );
}

/// The first line of README's table of what is read.
const TABLE: &str = "| ecosystem | from |";

#[test]
fn the_table_of_what_is_read_is_the_table_of_ecosystems() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let start = page.find(TABLE).unwrap();
    let length: usize =
        page[start..].split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum();
    let table = outcrop_proto::ecosystem::markdown_table();
    assert!(table.starts_with(TABLE));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, [&page[..start], &table, &page[start + length..]].concat()).unwrap();
        return;
    }
    assert_eq!(
        &page[start..start + length],
        table,
        "README.md is out of step with proto/src/ecosystem.rs: UPDATE=1 cargo test --workspace --test it docs::"
    );
}

#[test]
fn help_is_wrapped_at_the_width_of_the_terminal() {
    let outcrop = env!("CARGO_BIN_EXE_outcrop");
    let agent = Path::new(outcrop).with_file_name("outcrop-agent");
    for (program, arguments) in [
        (Path::new(outcrop), &["--help"][..]),
        (Path::new(outcrop), &["aggregator", "--help"]),
        (Path::new(outcrop), &["db", "push", "--help"]),
        (&agent, &["--help"]),
        (&agent, &["run", "--help"]),
    ] {
        let output = Command::new(program).args(arguments).env("COLUMNS", "80").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.lines().count() > 10, "{arguments:?}: {help}");
        // clap does not wrap the line of usage.
        let long: Vec<&str> =
            help.lines().filter(|line| line.chars().count() > 80 && !line.starts_with("Usage:")).collect();
        assert_eq!(long, Vec::<&str>::new(), "{} {arguments:?}", program.display());
    }
}
