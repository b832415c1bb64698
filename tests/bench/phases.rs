//! The phases of a start, as a runtime tells of them in its log.
//!
//! A line that has `phases of container <id>: <name>=<microseconds> …` in it, or the same of a sandbox,
//! whatever is around it: the daemon may have quoted the line of the shim once or twice.

use std::collections::BTreeMap;

/// A sandbox that was made for a container has its id.
const MARKS: [&str; 2] = ["phases of container ", "phases of sandbox "];

/// The phases of several containers.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Phases {
    /// Names and the milliseconds of each container, in the order of their first appearance.
    pub(crate) all: Vec<(String, Vec<f64>)>,
}

impl Phases {
    /// What `log` tells of the containers `ids`.
    pub(crate) fn of(log: &str, ids: &[String]) -> Self {
        let mut order: Vec<String> = Vec::new();
        // A phase that a container went through twice counts with its whole time.
        let mut found: BTreeMap<(String, &str), f64> = BTreeMap::new();
        for (id, phases) in log.lines().filter_map(parse) {
            let Some(id) = ids.iter().find(|known| *known == id) else { continue };
            for (name, micros) in phases {
                if !order.iter().any(|known| known == name) {
                    order.push(name.to_owned());
                }
                *found.entry((name.to_owned(), id)).or_default() += micros as f64 / 1000.0;
            }
        }
        let of = |name: &String| {
            found
                .iter()
                .filter(|((other, _), _)| other == name)
                .map(|(_, millis)| *millis)
                .collect()
        };
        Self { all: order.iter().map(|name| (name.clone(), of(name))).collect() }
    }
}

/// The container and the phases of a line, if it is one that tells of phases.
fn parse(line: &str) -> Option<(&str, Vec<(&str, u64)>)> {
    let (_, told) = MARKS.iter().find_map(|mark| line.split_once(mark))?;
    let (id, told) = told.split_once(": ")?;
    let mut phases = Vec::new();
    for word in told.split(' ').filter(|word| !word.is_empty()) {
        let Some((name, value)) = word.split_once('=') else { break };
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(micros) = value[..digits].parse() else { break };
        if name.is_empty() || name.contains(['"', '\\']) {
            break;
        }
        phases.push((name, micros));
        // A quotation mark ends the message; what follows are the log's own fields.
        if !value[digits..].trim_end_matches(',').is_empty() {
            break;
        }
    }
    Some((id, phases))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_through_quotation() {
        let expected = Some(("c-1", vec![("launch", 1500), ("agent.ready", 20)]));
        for line in [
            "phases of container c-1: launch=1500 agent.ready=20",
            r#"time="x" level=debug msg="phases of container c-1: launch=1500 agent.ready=20" id="c-1" n=5"#,
            r#"level=info msg="time=\"x\" msg=\"phases of container c-1: launch=1500 agent.ready=20\" pid=7""#,
            "phases of container c-1: launch=1500, agent.ready=20 and=more",
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn other_lines_are_not_phases() {
        for line in ["", "phases", "phases of container c-1", "container c-1: launch=1"] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(parse("phases of container c-1: "), Some(("c-1", vec![])));
        assert_eq!(parse("phases of container c-1: slow fast=1"), Some(("c-1", vec![])));
    }

    #[test]
    fn several_lines_of_a_container_come_together_in_order() {
        let log = r#"
            msg="phases of container a: mount=1000 boot=2000" id=a
            msg="something else" boot=9
            msg="phases of container b: mount=3000 boot=4000" id=b
            msg="phases of container other: mount=9000 alien=1" id=other
            msg="phases of container a: start=500 mount=1000" id=a
        "#;
        let phases = Phases::of(log, &["a".into(), "b".into()]);
        assert_eq!(
            phases.all,
            [
                ("mount".into(), vec![2.0, 3.0]),
                ("boot".into(), vec![2.0, 4.0]),
                ("start".into(), vec![0.5])
            ]
        );
        assert_eq!(Phases::of(log, &[]).all, []);
    }
}
