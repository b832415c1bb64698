//! The picture of a start: its phases beside runc's whole.

use std::fmt::Write as _;

use crate::report::Report;
use crate::table::figure;

/// How the measures of phases begin; see rows/start.rs.
pub(crate) const PHASE: &str = "phase ";

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 90.0;
const LINE: f64 = 22.0;
/// Readable on white and on black, as is the grey of the text where a viewer knows of no scheme.
const COLOURS: [&str; 8] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f", "#af9a24"];

/// Part of a start.
struct Part {
    name: String,
    millis: f64,
    colour: &'static str,
}

/// The picture as SVG; none without the median of a start.
pub(crate) fn draw(report: &Report) -> Option<String> {
    let start = report.measure("start")?;
    let (vmrt, runc) = (start.vmrt.median()?, start.runc.as_ref()?.median()?);
    let parts = parts(report, vmrt);
    let scale = (WIDTH - LEFT - RIGHT) / vmrt.max(runc).max(f64::MIN_POSITIVE);
    let rows = parts.len().div_ceil(2) as f64;
    let height = 3.0 * LINE * 1.4 + rows * LINE + LINE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>{}</title>\n<style>\n\
         text {{ fill: #6e7781; }}\n\
         .whole {{ fill: #8c959f; }}\n\
         @media (prefers-color-scheme: light) {{ text {{ fill: #24292f; }} }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3; }} }}\n</style>\n",
        escaped(&format!(
            "Median time of a start: vmrt {} ms in phases, runc {} ms",
            figure(vmrt),
            figure(runc)
        ))
    );
    let mut y = LINE / 2.0;
    let what = format!("Median time of ctr run -d, accelerator {}", report.host.accelerator);
    text(&mut svg, (0.0, y), &what);
    y += LINE * 1.2;
    text(&mut svg, (0.0, y), "vmrt");
    let mut x = LEFT;
    for part in &parts {
        let width = part.millis * scale;
        rectangle(&mut svg, (x, y), width, &format!("fill=\"{}\"", part.colour));
        x += width;
    }
    text(&mut svg, (x + 8.0, y), &format!("{} ms", figure(vmrt)));
    y += LINE * 1.4;
    text(&mut svg, (0.0, y), "runc");
    rectangle(&mut svg, (LEFT, y), runc * scale, "class=\"whole\"");
    text(&mut svg, (LEFT + runc * scale + 8.0, y), &format!("{} ms", figure(runc)));
    y += LINE * 1.8;
    legend(&mut svg, &parts, y);
    svg.push_str("</svg>\n");
    Some(svg)
}

/// The phases in their order, and what of the start is none of them.
fn parts(report: &Report, whole: f64) -> Vec<Part> {
    let measures = report.rows.iter().flat_map(|row| &row.findings.measures);
    let phases = measures.filter_map(|measure| {
        Some((measure.name.strip_prefix(PHASE)?.to_owned(), measure.vmrt.median()?))
    });
    let mut parts: Vec<_> = phases
        .zip(COLOURS.iter().cycle())
        .map(|((name, millis), colour)| Part { name, millis, colour })
        .collect();
    let rest = whole - parts.iter().map(|part| part.millis).sum::<f64>();
    if rest > 0.0 {
        let name =
            if parts.is_empty() { "phases not reported" } else { "ctr, containerd and the rest" };
        parts.push(Part { name: name.into(), millis: rest, colour: "#8c959f" });
    }
    parts
}

fn legend(svg: &mut String, parts: &[Part], top: f64) {
    for (index, part) in parts.iter().enumerate() {
        let x = LEFT + (index % 2) as f64 * (WIDTH - LEFT) / 2.0;
        let y = top + (index / 2) as f64 * LINE;
        rectangle(svg, (x, y), 14.0, &format!("fill=\"{}\"", part.colour));
        text(svg, (x + 22.0, y), &format!("{} {} ms", part.name, figure(part.millis)));
    }
}

/// A bar whose left end is at a place, in the middle of its line.
fn rectangle(svg: &mut String, (x, y): (f64, f64), width: f64, look: &str) {
    let (top, height) = (y - LINE * 0.35, LINE * 0.7);
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {look}/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), words: &str) {
    let baseline = y + 4.5;
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{baseline:.1}\">{}</text>", escaped(words));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    /// Fails unless every element is closed in order and nothing stands where markup may not.
    fn assert_well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some((text, markup)) = rest.split_once('<') {
            assert!(!text.contains('>'), "a bare > in {text:?}");
            for entity in text.split('&').skip(1) {
                let name = entity.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot"].contains(&name), "the entity {name:?}");
            }
            let (tag, after) = markup.split_once('>').expect("the end of a tag");
            assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
            rest = after;
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    }

    #[test]
    fn the_picture_is_well_formed() {
        let svg = draw(&sample()).unwrap();
        assert_well_formed(&svg);
        assert!(svg.contains("&lt;clone&gt; 60.0 ms") && svg.contains("prefers-color-scheme"));
    }

    #[test]
    fn the_parts_make_up_the_whole() {
        let parts = parts(&sample(), 120.0);
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["share", "<clone>", "ctr, containerd and the rest"]);
        assert_eq!(parts.iter().map(|part| part.millis).sum::<f64>(), 120.0);
    }

    #[test]
    fn without_phases_the_bar_says_so_and_without_a_start_there_is_none() {
        let mut report = sample();
        report.rows[0].findings.measures.truncate(1);
        let svg = draw(&report).unwrap();
        assert_well_formed(&svg);
        assert!(svg.contains("phases not reported"));
        report.rows.clear();
        assert!(draw(&report).is_none());
    }
}
