//! The settings' flags, made from the table. All values are taken as text.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::settings::{self, Kind, Setting, UsedBy};

/// The flags that were given, by the setting's variable.
#[derive(Debug, Clone, Default)]
pub struct Given(pub BTreeMap<&'static str, String>);

/// The flags of `dev`, `serve` and `config`: every setting that has one.
#[derive(Debug, Clone, Default)]
pub struct RunFlags(Given);

/// The flags of `wal`: where the log is.
#[derive(Debug, Clone, Default)]
pub struct LogFlags(Given);

/// The flag of `health`: where the admin port is.
#[derive(Debug, Clone, Default)]
pub struct AdminFlags(Given);

fn all() -> impl Iterator<Item = &'static Setting> {
    let all = settings::ALL.iter().copied();
    all.filter(|setting| !setting.flag.is_empty())
}

fn of_the_log() -> impl Iterator<Item = &'static Setting> {
    all().filter(|setting| setting.used_by == UsedBy::RunAndWal)
}

fn of_the_admin_port() -> impl Iterator<Item = &'static Setting> {
    all().filter(|setting| setting.env == settings::ADMIN_ADDR.env)
}

fn augment(command: Command, settings: impl Iterator<Item = &'static Setting>) -> Command {
    // Flags that the command declares itself keep clap's own heading.
    command.args(settings.map(|setting| {
        let arg = Arg::new(setting.env)
            .long(setting.flag)
            .value_name(setting.kind.value_name())
            .help(setting.long_help())
            .help_heading(setting.heading)
            .allow_hyphen_values(true);
        match setting.kind {
            Kind::Bool => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            _ => arg.num_args(1),
        }
    }))
}

fn given(matches: &ArgMatches, settings: impl Iterator<Item = &'static Setting>) -> Given {
    let given = settings.filter_map(|setting| {
        let text = matches.get_one::<String>(setting.env)?;
        Some((setting.env, text.clone()))
    });
    Given(given.collect())
}

macro_rules! flags {
    ($($name:ident: $settings:ident;)*) => {$(
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                augment(command, $settings())
            }

            fn augment_args_for_update(command: Command) -> Command {
                augment(command, $settings())
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(given(matches, $settings())))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.0.extend(given(matches, $settings()).0);
                Ok(())
            }
        }

        impl From<$name> for Given {
            fn from(flags: $name) -> Self {
                flags.0
            }
        }
    )*};
}

flags! {
    RunFlags: all;
    LogFlags: of_the_log;
    AdminFlags: of_the_admin_port;
}
