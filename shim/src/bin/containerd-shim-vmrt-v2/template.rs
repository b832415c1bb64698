//! `template`: what an operator does with the templates of a host.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use runtime_api::{Error, Result, ResultExt};
use vmm_backend::{Config, Templates, warm};

use crate::ACCELERATOR_CACHE;

const USAGE: &str = "usage: containerd-shim-vmrt-v2 template warm|check|clear";

/// Does what the words after `template` say and prints what came of it.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = words.collect();
    let done = match words.iter().map(|word| word.to_str()).collect::<Vec<_>>()[..] {
        [Some("warm")] => build(),
        [Some("check")] => check(),
        [Some("clear")] => clear(),
        _ => Err(Error::invalid_argument(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Has the template of the configuration: builds it unless it is there.
fn build() -> Result<()> {
    let config = Config::load()?;
    let cache = Path::new(ACCELERATOR_CACHE);
    let directory = cache.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.internal(|| format!("create directory {}", directory.display()))?;
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let executor = executor.internal(|| "start the executor")?;
    let place = executor.block_on(warm(&config, cache))?;
    print(&format!("{}: ready", place.display()))
}

/// Reads all templates and tells which of them are what they were.
fn check() -> Result<()> {
    let mut damaged = 0;
    for checked in templates()?.check() {
        let verdict = match &checked.verdict {
            Ok(()) => "whole".to_owned(),
            Err(error) => {
                damaged += 1;
                error.chain()
            }
        };
        print(&format!("{}: {verdict}", checked.directory.display()))?;
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Error::internal(format!("{damaged} damaged; `template clear` removes them"))),
    }
}

fn clear() -> Result<()> {
    templates()?.clear()
}

fn templates() -> Result<Templates> {
    Ok(Templates::in_directory(Config::load()?.template_dir))
}

fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").internal(|| "write to stdout")
}
