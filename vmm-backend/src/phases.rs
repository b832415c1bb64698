//! Where the time of an operation goes: measured always, for a log line that `scripts/bench.sh`
//! reads.

use std::fmt;
use std::time::{Duration, Instant};

/// The phases of one operation, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Phases {
    begun: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Phases {
    /// The first phase begins now.
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), done: Vec::new() }
    }

    /// What has passed since the last end belongs to something else.
    pub(crate) fn skip(&mut self) {
        self.begun = Instant::now();
    }

    /// The current phase ends now; the next one begins.
    pub(crate) fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        self.done.push((name, now - self.begun));
        self.begun = now;
    }
}

/// `name=microseconds`, with blanks in between.
impl fmt::Display for Phases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, time)) in self.done.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            write!(formatter, "{blank}{name}={}", time.as_micros())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_named_in_their_order() {
        let mut phases = Phases::begin();
        phases.end("one");
        phases.end("two");
        let text = phases.to_string();
        let names: Vec<_> = text.split(' ').map(|phase| phase.split_once('=').unwrap().0).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(
            text.split(' ').all(|phase| phase.split_once('=').unwrap().1.parse::<u64>().is_ok())
        );
    }
}
