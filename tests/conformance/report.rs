//! The report: a table for people, JUnit XML for machines, one page with everything.

use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::parity::{Mismatch, Parity};
use crate::record::{Outcome, Record};
use crate::target::Target;

/// Where the files go.
pub(crate) fn directory() -> PathBuf {
    let below = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(Path::to_owned);
    std::env::var_os("VMRT_REPORT")
        .map(PathBuf::from)
        .or(below.map(|target| target.join("conformance")))
        .unwrap_or_default()
}

/// Writes the files and answers what is to be printed.
pub(crate) fn write(records: &[Record], parity: &Parity, into: &Path) -> std::io::Result<String> {
    fs::create_dir_all(into)?;
    fs::write(into.join("junit.xml"), junit(records))?;
    fs::write(into.join("matrix.html"), page(records, parity))?;
    Ok(text(records, parity))
}

fn of(records: &[Record], target: Target) -> Vec<&Record> {
    records.iter().filter(|record| record.target == target).collect()
}

struct Tally {
    passed: usize,
    failed: usize,
    differing: usize,
    skipped: usize,
    seconds: f64,
}

fn tally(records: &[&Record]) -> Tally {
    let count = |wanted: fn(&Outcome) -> bool| {
        records.iter().filter(|record| wanted(&record.outcome)).count()
    };
    Tally {
        passed: count(|outcome| *outcome == Outcome::Passed),
        failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
        differing: count(|outcome| matches!(outcome, Outcome::Differs(_))),
        skipped: count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        seconds: records.iter().map(|record| record.took.as_secs_f64()).sum(),
    }
}

fn text(records: &[Record], parity: &Parity) -> String {
    let colour = |code: &str, text: String| match std::io::stdout().is_terminal() {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text,
    };
    let mut out = String::from("target      passed  failed  differing  skipped  seconds\n");
    for target in Target::ALL {
        let ours = of(records, target);
        if ours.is_empty() {
            continue;
        }
        let Tally { passed, failed, differing, skipped, seconds } = tally(&ours);
        let line = format!(
            "{:<10} {passed:>7} {failed:>7} {differing:>10} {skipped:>8} {seconds:>8.1}",
            target.name()
        );
        let _ = writeln!(out, "{}", colour(if failed == 0 { "32" } else { "31" }, line));
        for record in ours {
            if let Outcome::Skipped(why) = &record.outcome {
                let _ = writeln!(out, "  skipped: {}: {why}", record.name);
            }
        }
    }
    let mismatch = |out: &mut String, one: &Mismatch, doors: &str| {
        let told = format!("  {}: {}: {} {doors} {}", one.case, one.what, one.ours, one.theirs);
        let _ = writeln!(out, "{}", colour("31", told));
    };
    if !parity.doors.is_empty() {
        out.push_str("library and wire differ (library, then wire):\n");
        parity.doors.iter().for_each(|one| mismatch(&mut out, one, "|"));
    }
    let (listed, unlisted): (Vec<_>, Vec<_>) =
        parity.reference.iter().partition(|one| one.reason.is_some());
    let _ = writeln!(out, "differences from the reference: {} listed", listed.len());
    if !unlisted.is_empty() {
        out.push_str("not listed (wire, then reference):\n");
        unlisted.into_iter().for_each(|one| mismatch(&mut out, one, "|"));
    }
    for row in &parity.stale {
        let told = format!("  listed and gone: {}: {} = {}", row.case, row.what, row.reference);
        let _ = writeln!(out, "{}", colour("31", told));
    }
    out
}

fn escaped(text: &str) -> String {
    let escape = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        // XML has no words for the others.
        '\n' | '\t' => character.to_string(),
        control if control.is_control() => format!("\\x{:02x}", u32::from(control)),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}

fn junit(records: &[Record]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for target in Target::ALL {
        let ours = of(records, target);
        let Tally { failed, skipped, differing, seconds, .. } = tally(&ours);
        let skipped = skipped + differing;
        let _ = writeln!(
            out,
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\" \
             time=\"{seconds:.3}\">",
            target.name(),
            ours.len()
        );
        for record in ours {
            let _ = write!(
                out,
                "<testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
                escaped(record.clause),
                escaped(record.name),
                record.took.as_secs_f64()
            );
            match &record.outcome {
                Outcome::Passed => {}
                Outcome::Failed(why) => {
                    let _ = write!(out, "<failure>{}</failure>", escaped(why));
                }
                Outcome::Skipped(why) | Outcome::Differs(why) => {
                    let _ = write!(out, "<skipped message=\"{}\"/>", escaped(why));
                }
            }
            out.push_str("</testcase>\n");
        }
        out.push_str("</testsuite>\n");
    }
    out + "</testsuites>\n"
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:3px 8px;text-align:left;\
vertical-align:top}td.passed{background:#d9f2d9}td.failed{background:#f6cccc}td.skipped{background:#eee;\
color:#777}td.differs{background:#fbeec2}code{white-space:pre-wrap}summary{cursor:pointer}";

fn page(records: &[Record], parity: &Parity) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for record in records {
        if !names.iter().any(|(name, _)| *name == record.name) {
            names.push((record.name, record.clause));
        }
    }
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Conformance</title>\
         <style>{STYLE}</style><h1>Conformance</h1><table><tr><th>case<th>clause"
    );
    for target in Target::ALL {
        let _ = write!(out, "<th>{}", target.name());
    }
    for (name, clause) in names {
        let _ = write!(out, "<tr><td>{}<td>{}", escaped(name), escaped(clause));
        for target in Target::ALL {
            let record =
                records.iter().find(|record| record.target == target && record.name == name);
            out.push_str(&record.map_or("<td>".to_owned(), |record| cell(record, parity)));
        }
    }
    out.push_str("</table><h2>Differences from the reference</h2><table>");
    out.push_str("<tr><th>case<th>what<th>vmrt<th>reference<th>reason");
    for one in &parity.reference {
        let reason = one.reason.as_deref().unwrap_or("NOT LISTED");
        let columns = [&one.case, &one.what, &one.ours, &one.theirs, reason];
        let columns = columns.map(|column| format!("<td>{}", escaped(column)));
        let _ = write!(out, "<tr>{}", columns.concat());
    }
    out + "</table></html>\n"
}

fn cell(record: &Record, parity: &Parity) -> String {
    let differs = record.target == Target::Reference
        && parity.reference.iter().any(|one| one.case == record.name);
    let (class, word, why) = match &record.outcome {
        _ if differs => ("differs", "differs", ""),
        Outcome::Passed => ("passed", "passed", ""),
        Outcome::Differs(why) => ("differs", "differs", why.as_str()),
        Outcome::Failed(why) => ("failed", "failed", why.as_str()),
        Outcome::Skipped(why) => ("skipped", "skipped", why.as_str()),
    };
    let line = |one: &crate::record::Observation| {
        let mut value = one.value.clone();
        if let Some((end, _)) = value.char_indices().nth(300) {
            value.truncate(end);
            value.push('…');
        }
        format!("{} = {value}\n", one.what)
    };
    let seen: String = record.observations.iter().map(line).collect();
    format!(
        "<td class={class}><details><summary>{word} {:.2} s</summary><code>{}\n{}</code></details>",
        record.took.as_secs_f64(),
        escaped(why),
        escaped(&seen)
    )
}
