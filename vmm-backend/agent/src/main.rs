//! The program of the guest: PID 1, and its own helper.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use log::{LevelFilter, Log, Metadata, Record};
use runtime_api::{Error, Result, ResultExt};
use vmrt_agent::{LinuxRuntime, Options, boot, helper, serve};

fn main() -> ExitCode {
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    if let Some(role) = std::env::args().nth(1).as_deref().and_then(helper::Role::parse) {
        return helper::run(role);
    }
    match be_init() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Serves until the guest goes down. To return is to end the guest.
fn be_init() -> Result<()> {
    if std::process::id() != 1 {
        return Err(Error::failed_precondition("the agent is PID 1 of a guest and nothing else"));
    }
    boot::bring_up()?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .internal(|| "start the executor")?;
    executor.block_on(async {
        let runtime = Arc::new(LinuxRuntime::new(Options::default()));
        runtime.prepare_helpers().await;
        serve::over_port(runtime).await
    })
}

/// Logs to standard error, which is the serial console of the guest.
struct Console;

impl Log for Console {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // There is no other place to report to.
        let _ = writeln!(
            std::io::stderr(),
            "vmrt-agent: {}: {}",
            record.level().as_str().to_lowercase(),
            record.args()
        );
    }

    fn flush(&self) {}
}
