//! `eventkit config print|check`: what applies, where it comes from, and what is wrong with it.

use std::io::{self, Write};

use serde::Serialize;

use super::{ConfigArgs, ConfigCommand, EXIT_OK, EXIT_USAGE, inputs, reader_gone};
use crate::config::{self, Environment, Inputs, Problems, Profile, Resolved};

/// One setting as `config print --json` shows it.
#[derive(Debug, Serialize)]
struct Entry {
    setting: &'static str,
    flag: Option<String>,
    value: Option<String>,
    source: String,
}

/// Runs the tool; the answer is the exit code.
///
/// # Errors
///
/// When the output cannot be written.
pub fn run(
    command: ConfigCommand,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    match judge(command, environment, out, err) {
        Err(error) if reader_gone(&error) => Ok(EXIT_OK),
        judged => judged,
    }
}

fn judge(
    command: ConfigCommand,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let of = |shared: ConfigArgs| inputs(shared.profile, shared.flags, environment);
    match command {
        ConfigCommand::Print { json, shared } => {
            let inputs = of(shared);
            if json {
                print_json(&inputs, out)?;
            } else {
                print_text(&inputs, out)?;
            }
            if let Err(Problems(problems)) = config::validate(&inputs) {
                writeln!(
                    err,
                    "note: {} as it stands cannot start: `eventkit config check --for {}` says why ({})",
                    name(inputs.profile),
                    name(inputs.profile),
                    problems.len()
                )?;
            }
            Ok(EXIT_OK)
        }
        ConfigCommand::Check { shared } => check(&of(shared), out, err),
    }
}

fn name(profile: Profile) -> &'static str {
    match profile {
        Profile::Dev => "dev",
        Profile::Serve => "serve",
    }
}

fn check(inputs: &Inputs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match config::validate(inputs) {
        Ok(checked) => {
            for warning in &checked.warnings {
                writeln!(err, "warning: {}: {}", warning.setting, warning.text)?;
            }
            writeln!(
                out,
                "the configuration for {} is good",
                name(inputs.profile)
            )?;
            Ok(EXIT_OK)
        }
        Err(problems) => {
            writeln!(err, "{problems}")?;
            Ok(EXIT_USAGE)
        }
    }
}

/// The settings that have something to show: the deprecated ones, and those that narrow another, only when they are set.
fn shown(inputs: &Inputs) -> impl Iterator<Item = Resolved> {
    inputs.resolve_all().into_iter().filter(|resolved| {
        let setting = resolved.setting;
        let always = setting.deprecated.is_none() && !setting.shown_only_if_set;
        always || resolved.text.is_some()
    })
}

fn print_text(inputs: &Inputs, out: &mut dyn Write) -> io::Result<()> {
    let mut heading = "";
    for resolved in shown(inputs) {
        let setting = resolved.setting;
        if heading != setting.heading {
            let gap = if heading.is_empty() { "" } else { "\n" };
            heading = setting.heading;
            writeln!(out, "{gap}# {heading}")?;
        }
        let value = match &resolved.text {
            Some(text) => setting.shown(text).to_owned(),
            None => match setting.default {
                config::settings::Fallback::Unset(what) => format!("({what})"),
                _ => String::new(),
            },
        };
        writeln!(out, "{:<7}  {}={value}", resolved.source, setting.env)?;
    }
    Ok(())
}

fn print_json(inputs: &Inputs, out: &mut dyn Write) -> io::Result<()> {
    let entries: Vec<_> = shown(inputs)
        .map(|resolved| Entry {
            setting: resolved.setting.env,
            flag: (!resolved.setting.flag.is_empty())
                .then(|| format!("--{}", resolved.setting.flag)),
            value: resolved
                .text
                .as_deref()
                .map(|text| resolved.setting.shown(text).to_owned()),
            source: resolved.source.to_string(),
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &entries)?;
    writeln!(out)
}
