//! `eventkit bench telemetry`: what OpenTelemetry costs, and that a collector which does not do its part costs nothing more.
//!
//! ```text
//!   off · 1 % · 100 %                                 one server each, interleaved rounds, in turn
//!   refusing · hanging · failing · slow · restarting
//!     load ─▶ serve ─▶ Parquet                        closed loop, then until everything is settled
//!                └──▶ receiver                        in this process: counts and drops, or does not do its part
//! ```
//!
//! How they are compared stands in [`super::compare`]; the exporter's work is the server's, the receiver's share the generator's. Servers
//! get the standard variables and nothing else.

use std::io::{self, Write};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{CommonArgs, Sizes};
use super::compare::{self, Compared, Measured, Tally, Variant, write_ways};
use super::load::{Client, Way};
use super::process::{Server, Setup};
use super::report::Table;
use super::{Bench, BenchError, run_on};
use crate::config::Environment;

mod receiver;

use receiver::{Behaviour, Receiver};

/// Examples, below the options.
pub(super) const AFTER_HELP: &str = "\
What is compared, in interleaved rounds:
  off         no OTEL_ variable
  one         a receiver that takes everything, 1 % of the traces sampled
  all         the same, every trace sampled
  refusing    every trace sampled, nobody listens at the endpoint
  hanging     every trace sampled, the endpoint takes connections and never answers
  failing     every trace sampled, every export is answered with UNAVAILABLE
  slow        every trace sampled, every export is answered after 3 seconds
  restarting  every trace sampled, a receiver that is there for a second and away for half a second, again and again

Each is the gateway to Parquet, under single events over HTTP and batches over CollectBidi (a new stream every 16 of them,
as a stream is sampled as a whole), closed loop; then it is waited until everything is settled, and the CPU time of all
that is divided by the events. one and all are held against off, the others against all: what a collector costs that does
not do its part, beside one that does. Memory is the peak of the server's whole life; spans are those that the
receiver took, dropped those that the server says it could not export until then.

Examples:
  eventkit bench telemetry                               11 rounds, about 35 minutes
  eventkit bench telemetry --quick                       one round: whether it works
  eventkit bench telemetry http --rounds 31 --json telemetry.json
  eventkit bench telemetry --only off,one --seconds 10

OTEL_ variables of this process are not passed on.";

/// How the servers export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Telemetry {
    /// Not at all
    Off,
    /// 1 % of the traces
    One,
    /// Every trace
    All,
    /// Every trace, to nobody
    Refusing,
    /// Every trace, to somebody who never answers
    Hanging,
    /// Every trace, to somebody who answers with an error
    Failing,
    /// Every trace, to somebody who answers late
    Slow,
    /// Every trace, to somebody who comes and goes
    Restarting,
}

impl Variant for Telemetry {
    type Tally = Exported;

    /// What a collector costs that does not do its part is a question of what one costs that does.
    fn baseline(self) -> Self {
        match self {
            Self::Off | Self::One | Self::All => Self::Off,
            Self::Refusing | Self::Hanging | Self::Failing | Self::Slow | Self::Restarting => {
                Self::All
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::One => "one",
            Self::All => "all",
            Self::Refusing => "refusing",
            Self::Hanging => "hanging",
            Self::Failing => "failing",
            Self::Slow => "slow",
            Self::Restarting => "restarting",
        }
    }

    fn target(self) -> Option<f64> {
        match self {
            Self::One => Some(1.05),
            Self::All => Some(1.25),
            Self::Refusing | Self::Hanging | Self::Failing | Self::Slow | Self::Restarting => {
                Some(1.05)
            }
            Self::Off => None,
        }
    }

    fn doubt(self, exported: &Exported) -> Option<&'static str> {
        match self.behaviour() {
            Some(Behaviour::Refuses | Behaviour::Hangs | Behaviour::Fails) => {
                (exported.spans_dropped == 0).then_some("no span was dropped")
            }
            _ => (exported.spans_received == 0).then_some("no span came"),
        }
    }
}

/// What became of the spans; what a server held when it was stopped is not among them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Exported {
    exports_received: u64,
    /// What the receiver took.
    spans_received: u64,
    /// What the server counted as not exported.
    spans_dropped: u64,
}

impl Tally for Exported {
    const HEADS: &'static [&'static str] = &["spans", "dropped"];

    fn add(&mut self, round: &Self) {
        self.exports_received += round.exports_received;
        self.spans_received += round.spans_received;
        self.spans_dropped += round.spans_dropped;
    }

    fn shown(&self) -> Vec<u64> {
        vec![self.spans_received, self.spans_dropped]
    }
}

impl Telemetry {
    fn behaviour(self) -> Option<Behaviour> {
        match self {
            Self::Off => None,
            Self::One | Self::All => Some(Behaviour::Takes),
            Self::Refusing => Some(Behaviour::Refuses),
            Self::Hanging => Some(Behaviour::Hangs),
            Self::Failing => Some(Behaviour::Fails),
            Self::Slow => Some(Behaviour::Slow),
            Self::Restarting => Some(Behaviour::Restarts),
        }
    }

    fn ratio(self) -> &'static str {
        match self {
            Self::One => "0.01",
            _ => "1.0",
        }
    }
}

/// What `bench telemetry` can be told.
#[derive(Debug, Args)]
pub struct TelemetryArgs {
    /// On which ways in [default: both]
    #[arg(value_name = "WAY", value_enum)]
    pub(super) ways: Vec<Way>,
    /// Only these
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',',
        default_values = ["off", "one", "all", "refusing", "hanging", "failing", "slow", "restarting"])]
    pub only: Vec<Telemetry>,
    /// Load, place and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct TelemetryReport {
    ways: Vec<Compared<Telemetry, Exported>>,
}

impl Table for TelemetryReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_ways("telemetry", &self.ways, out)
    }
}

/// Measures and prints the result; returns the exit code.
///
/// # Errors
///
/// [`BenchError`].
pub(super) fn run(
    args: &TelemetryArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, BenchError> {
    let inherited: Vec<String> = environment
        .vars
        .keys()
        .filter(|name| name.starts_with("OTEL_"))
        .cloned()
        .collect();
    let of = (&args.common, Sizes::default());
    run_on(of, environment, (out, err), async |bench| {
        let mut report = TelemetryReport::default();
        for way in [Way::Http, Way::Bidi] {
            if args.ways.is_empty() || args.ways.contains(&way) {
                let one =
                    async |bench: &mut Bench<'_>, what| one(bench, what, way, &inherited).await;
                let compared = compare::compare(bench, &args.only, way, one).await?;
                report.ways.push(compared);
            }
        }
        Ok(report)
    })
}

/// How a server is started: with the standard variables, and none that this process was given.
fn setup(what: Telemetry, endpoint: Option<String>, inherited: &[String]) -> Setup {
    let mut setup = Setup::of(Server::Full, &["--warehouse-enabled=false"]);
    setup.name = what.name();
    let inherited = inherited.iter().map(|name| (name.clone(), None));
    setup.variables = inherited.collect();
    let given = endpoint.map(|endpoint| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", what.ratio().to_owned()),
        ]
    });
    let given = given.into_iter().flatten();
    setup
        .variables
        .extend(given.map(|(name, value)| (name.to_owned(), Some(value))));
    setup
}

async fn one(
    bench: &mut Bench<'_>,
    what: Telemetry,
    way: Way,
    inherited: &[String],
) -> Result<Measured<Exported>, BenchError> {
    let receiver = match what.behaviour() {
        Some(behaviour) => {
            let started = Receiver::start(behaviour);
            Some(started.map_err(|error| BenchError::Io("start the receiver", error))?)
        }
        None => None,
    };
    let endpoint = receiver.as_ref().map(Receiver::endpoint);
    let (setup, client) = (setup(what, endpoint, inherited), Arc::<Client>::default());
    let (loaded, process) = compare::load(bench, setup, way, &client).await?;
    let dropped = "eventkit_telemetry_spans_dropped_total";
    let spans_dropped = compare::counted(&process, dropped).await?;
    drop(process);
    let (exports_received, spans_received) = receiver.map_or((0, 0), |receiver| receiver.counted());
    Ok(Measured {
        loaded,
        tally: Exported {
            exports_received,
            spans_received,
            spans_dropped,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_get_the_standard_variables_and_none_of_ours() {
        let inherited = ["OTEL_SDK_DISABLED".to_owned()];
        let off = setup(Telemetry::Off, None, &inherited);
        assert_eq!(off.variables, [("OTEL_SDK_DISABLED".to_owned(), None)]);
        let one = setup(
            Telemetry::One,
            Some("http://127.0.0.1:1".into()),
            &inherited,
        );
        let given: Vec<_> = one
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            given,
            [
                ("OTEL_SDK_DISABLED", None),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("http://127.0.0.1:1")),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", Some("grpc")),
                ("OTEL_TRACES_SAMPLER", Some("parentbased_traceidratio")),
                ("OTEL_TRACES_SAMPLER_ARG", Some("0.01")),
            ]
        );
    }
}
