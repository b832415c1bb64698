//! The report for people.

use std::fmt::Write as _;

use crate::report::{Findings, Measure, Report, Samples};
use crate::statistics::{median, percentile};

/// How wide the longest bar is, in characters.
const BAR: usize = 24;
/// The parts of a character, in eighths from none to seven.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Whether escape sequences colour it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }
}

const BOLD: &str = "1";
const FAINT: &str = "2";
const RED: &str = "31";
const VMRT: &str = "36";
const RUNC: &str = "33";

/// The report as lines of text.
pub(crate) fn render(report: &Report, style: Style) -> String {
    let host = &report.host;
    let mut text = format!(
        "{}\n{}, {} cores, {} MiB, Linux {}\n{}; {}; {}\nguest: Linux {}, accelerator {}\n",
        host.date,
        host.processor,
        host.cores,
        host.memory_mib,
        host.kernel,
        host.containerd,
        host.runc,
        host.qemu,
        host.guest_kernel,
        host.accelerator
    );
    for row in &report.rows {
        let _ = writeln!(text, "\n{} {}", style.paint(BOLD, row.name), row.title);
        rows(&mut text, &row.findings, style);
    }
    text
}

fn rows(text: &mut String, findings: &Findings, style: Style) {
    for measure in &findings.measures {
        let sides = [("vmrt", VMRT, Some(&measure.vmrt)), ("runc", RUNC, measure.runc.as_ref())];
        let mut name = measure.name.as_str();
        for (runtime, colour, samples) in sides {
            let Some(samples) = samples else { continue };
            let longest = longest(findings, measure);
            let line = line(measure, samples, runtime, longest, |bar| style.paint(colour, bar));
            let _ = writeln!(text, "  {name:<18} {}", line.trim_end());
            name = "";
        }
    }
    for note in &findings.notes {
        let _ = writeln!(text, "  {}", style.paint(FAINT, note));
    }
    for fault in &findings.faults {
        let _ = writeln!(text, "  {}", style.paint(RED, &format!("FAILED: {fault}")));
    }
}

/// The greatest median of the row in the unit of `measure`: bars of one unit are of one scale.
fn longest(findings: &Findings, measure: &Measure) -> f64 {
    let alike = findings.measures.iter().filter(|other| other.unit == measure.unit);
    let medians = alike
        .flat_map(|other| [other.vmrt.median(), other.runc.as_ref().and_then(Samples::median)]);
    medians.flatten().fold(0.0, f64::max)
}

fn line(
    measure: &Measure,
    samples: &Samples,
    runtime: &str,
    longest: f64,
    paint: impl Fn(&str) -> String,
) -> String {
    let Some(middle) = samples.median() else { return format!("{runtime}  no figure") };
    let bar = bar(middle, longest);
    let blank = " ".repeat(BAR + 1 - bar.chars().count());
    let figure = format!("{} {}", figure(middle), measure.unit.symbol());
    let mut line = format!("{runtime} {}{blank}{figure:>13}", paint(&bar));
    if samples.values.len() > 1 {
        let percent = measure.unit.bad_percentile();
        let bad = percentile(&samples.values, percent).map(self::figure).unwrap_or_default();
        let _ = write!(line, "   {:>3} {bad:>7}", format!("p{percent}"));
    } else {
        line.push_str("              ");
    }
    match median(&samples.cpu) {
        Some(cpu) => {
            let _ = write!(line, "   CPU {:>7} ms", self::figure(cpu));
        }
        None => line.push_str("                 "),
    }
    if let (Some(ratio), "vmrt") = (measure.ratio(), runtime) {
        let _ = write!(line, "   {ratio:.2} × runc");
    }
    line
}

/// Three digits that matter, as far as that goes.
pub(crate) fn figure(value: f64) -> String {
    match value {
        small if small < 1.0 => format!("{small:.3}"),
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

fn bar(value: f64, longest: f64) -> String {
    let share = if longest > 0.0 { (value / longest).clamp(0.0, 1.0) } else { 0.0 };
    // Something is never drawn as nothing.
    let eighths = ((share * (BAR * 8) as f64).round() as usize).max(usize::from(value > 0.0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn bars_are_proportional_to_an_eighth_of_a_character() {
        assert_eq!(bar(1.0, 1.0), "█".repeat(BAR));
        assert_eq!(bar(0.5, 1.0), "█".repeat(BAR / 2));
        assert_eq!(bar(1.0, 192.0), "▏");
        assert_eq!(bar(12.0, 192.0), "█▌");
        assert_eq!(bar(0.001, 192.0), "▏");
        assert_eq!(bar(0.0, 0.0), "");
    }

    #[test]
    fn figures_have_the_digits_that_matter() {
        let figures = [0.0123, 1.234, 12.34, 123.4, 1234.0].map(figure);
        assert_eq!(figures, ["0.012", "1.23", "12.3", "123", "1234"]);
    }

    #[test]
    fn every_row_says_what_it_found() {
        let text = render(&sample(), Style::Plain);
        let line = |word: &str| {
            let found = text.lines().find(|line| line.contains(word));
            found.unwrap_or_else(|| panic!("no {word} in\n{text}")).to_owned()
        };
        let start = line("start              vmrt");
        for part in ["120 ms", "p99     130", "CPU    90.0 ms", "1.20 × runc"] {
            assert!(start.contains(part), "{part} in {start}");
        }
        assert!(line("100 ms").trim_start().starts_with("runc"));
        assert!(line("phase share").contains("████ "));
        line("not available: because");
        line("FAILED: it broke");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn colours_change_nothing_but_the_colours() {
        let coloured = render(&sample(), Style::Coloured);
        assert!(coloured.contains("\x1b[36m█"));
        let mut plain = coloured;
        for code in [BOLD, FAINT, RED, VMRT, RUNC, "0"] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, render(&sample(), Style::Plain));
    }
}
