//! What to measure, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

/// How the program is called.
pub(crate) const USAGE: &str = "\
usage: bench.sh [OPTION]...
  --rows A,B      only these rows
  --samples N     samples of each runtime for start, exec and delete (default 30)
  --quick         small counts, for continuous integration
  --density N     pods of the density row (default 100; 5 with --quick)
  --json FILE     the report for programs (default target/bench/report.json)
  --picture FILE  an SVG of the phases of a start
  --gate FILE     fail when a limit of this TOML file is exceeded";

/// The choices of the caller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Names of rows; none means all.
    pub(crate) rows: Vec<String>,
    pub(crate) plan: Plan,
    pub(crate) json: PathBuf,
    pub(crate) picture: Option<PathBuf>,
    pub(crate) gate: Option<PathBuf>,
}

/// How much of everything.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Of each runtime for the rows of single operations.
    pub(crate) samples: usize,
    /// Before the samples, and not counted.
    pub(crate) warm_up: usize,
    /// How many starts at once, and how often.
    pub(crate) parallel: &'static [usize],
    pub(crate) rounds: usize,
    pub(crate) calls: usize,
    /// Of the rows that move data.
    pub(crate) transfers: usize,
    pub(crate) stdio_mib: usize,
    pub(crate) files: usize,
    pub(crate) file_mib: usize,
    /// With how many living pods memory is measured, and how long after the last start.
    pub(crate) pods: &'static [usize],
    pub(crate) settle: Duration,
    pub(crate) density: usize,
    pub(crate) watch: Duration,
}

impl Plan {
    const FULL: Self = Self {
        samples: 30,
        warm_up: 3,
        parallel: &[20, 50],
        rounds: 3,
        calls: 1000,
        transfers: 5,
        stdio_mib: 256,
        files: 1000,
        file_mib: 128,
        pods: &[1, 10],
        settle: Duration::from_secs(5),
        density: 100,
        watch: Duration::from_secs(10),
    };
    const QUICK: Self = Self {
        samples: 8,
        warm_up: 1,
        parallel: &[20],
        rounds: 1,
        calls: 200,
        transfers: 2,
        stdio_mib: 32,
        files: 200,
        file_mib: 32,
        pods: &[1, 5],
        settle: Duration::from_secs(2),
        density: 5,
        watch: Duration::from_secs(4),
    };
}

impl Options {
    /// Reads the words of the command line.
    ///
    /// # Errors
    /// What is wrong with them, in a line.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let words: Vec<_> = words.into_iter().collect();
        // The counts of the quick plan are a start that other options change, wherever they stand.
        let quick = words.iter().any(|word| word == "--quick");
        let mut options = Self {
            rows: Vec::new(),
            plan: if quick { Plan::QUICK } else { Plan::FULL },
            json: "target/bench/report.json".into(),
            picture: None,
            gate: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--quick" {
                continue;
            }
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rows" => {
                    options.rows = value()?.split(',').map(|row| row.trim().to_owned()).collect();
                }
                "--samples" => options.plan.samples = count(&word, &value()?)?,
                "--density" => options.plan.density = count(&word, &value()?)?,
                "--json" => options.json = value()?.into(),
                "--picture" => options.picture = Some(value()?.into()),
                "--gate" => options.gate = Some(value()?.into()),
                _ => return Err(format!("no such option: {word}\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Whether a row is to be measured.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row)
    }
}

fn count(option: &str, value: &str) -> Result<usize, String> {
    let parsed = value.parse().ok().filter(|count| *count > 0);
    parsed.ok_or_else(|| format!("{option} {value}: not a positive number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, String> {
        Options::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn counts_win_over_quick_in_any_order() {
        for words in ["--quick --samples 3", "--samples 3 --quick"] {
            let plan = parse(words).unwrap().plan;
            assert_eq!((plan.samples, plan.parallel), (3, Plan::QUICK.parallel), "{words}");
        }
        assert_eq!(parse("").unwrap().plan, Plan::FULL);
    }

    #[test]
    fn rows_are_chosen_by_name() {
        let options = parse("--rows start,exec --gate g --picture p").unwrap();
        assert!(options.wants("exec") && !options.wants("delete"));
        assert!(parse("").unwrap().wants("delete"));
    }

    #[test]
    fn mistakes_are_named() {
        for (words, named) in
            [("--samples", "needs a value"), ("--samples 0", "--samples 0"), ("--fast", "--fast")]
        {
            assert!(parse(words).unwrap_err().contains(named), "{words}");
        }
    }
}
