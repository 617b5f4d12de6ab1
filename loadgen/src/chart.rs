//! `heng-loadgen chart`: draws a result over time as SVG: rate, latency, memory, room on disk, and what was done to the server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use serde::Deserialize;

use crate::timeline::{Sample, Timeline, megabytes};

/// Width and height of the drawing, and of one chart in it, pixels.
const SIZE: (u32, u32) = (960, 960);
const TITLE_HEIGHT: u32 = 36;

/// Room for labels beside and under a chart, pixels.
const LEFT: u32 = 84;
const BELOW: u32 = 26;

/// Room above the greatest value.
const HEADROOM: f64 = 1.08;

/// Latencies are drawn from here, microseconds.
const LEAST_US: f64 = 10.0;

/// Seconds above which time is told in minutes.
const LONG_S: f64 = 600.0;

/// Draw a result of `run` or `soak` over time.
#[derive(Debug, Args)]
pub(crate) struct ChartArguments {
    /// The result, as its `--json` wrote it.
    result: PathBuf,
    /// The drawing to write.
    svg: PathBuf,
    /// Its title.
    #[arg(long, default_value = "")]
    title: String,
}

/// What of a result is drawn.
#[derive(Debug, Deserialize)]
struct Drawn {
    #[serde(default)]
    timeline: Timeline,
}

/// Draws; 1 when that cannot be done.
pub(crate) fn run(arguments: &ChartArguments) -> ExitCode {
    match draw_file(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            crate::run::say(&format!("heng-loadgen: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

fn draw_file(arguments: &ChartArguments) -> anyhow::Result<()> {
    let path = arguments.result.display();
    let text = std::fs::read(&arguments.result).with_context(|| format!("cannot read {path}"))?;
    let drawn: Drawn = serde_json::from_slice(&text).with_context(|| format!("{path} is not a result"))?;
    let samples = drawn.timeline.samples.len();
    anyhow::ensure!(samples > 1, "{path} has no course over time: draw what `run --json` or `soak --json` wrote");
    draw(&drawn.timeline, &arguments.title, &arguments.svg)
        .map_err(|err| anyhow::anyhow!("cannot draw {}: {err}", arguments.svg.display()))
}

/// A line of a chart.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    of: fn(&Sample) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "drawn, some thousand steps high")]
fn micros(latency_us: u64) -> f64 {
    (latency_us as f64).max(LEAST_US)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawing = Result<(), Box<dyn std::error::Error>>;

fn draw(timeline: &Timeline, title: &str, path: &Path) -> Drawing {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(TITLE_HEIGHT);
    head.titled(title, ("sans-serif", 18))?;
    let parts = body.split_evenly((4, 1));
    let [rate, latency, memory, disk] = parts.as_slice() else { return Ok(()) };
    let most = |lines: &[Line<'_>]| {
        let values = lines.iter().flat_map(|line| timeline.samples.iter().map(line.of));
        values.fold(0.0_f64, f64::max) * HEADROOM
    };
    let blue = RGBColor(31, 90, 160);
    let one = |name, of| [Line { name, color: blue, of }];
    let rates = one("transfers per second", |sample: &Sample| sample.per_s);
    panel(rate, timeline, 0.0..most(&rates).max(1.0), &rates)?;
    let mut latencies = vec![
        Line { name: "latency: max", color: RGBColor(190, 190, 190), of: |sample| micros(sample.max_us) },
        Line { name: "p99", color: RGBColor(200, 90, 20), of: |sample| micros(sample.p99_us) },
        Line { name: "p50, µs", color: blue, of: |sample| micros(sample.p50_us) },
    ];
    if timeline.samples.iter().any(|sample| sample.sync_max_us > 0) {
        let color = RGBColor(40, 140, 80);
        latencies.push(Line {
            name: "max of a bare fdatasync beside it",
            color,
            of: |sample| micros(sample.sync_max_us),
        });
    }
    panel(latency, timeline, (LEAST_US..most(&latencies).max(100.0)).log_scale(), &latencies)?;
    let memories = one("memory of the server, MB", |sample: &Sample| megabytes(sample.rss_bytes));
    panel(memory, timeline, 0.0..most(&memories).max(1.0), &memories)?;
    let rooms = one("room on disk, MB", |sample: &Sample| megabytes(sample.disk_bytes));
    panel(disk, timeline, 0.0..most(&rooms).max(1.0), &rooms)?;
    root.present()?;
    Ok(())
}

/// One chart: lines over time, with marks where something was done.
fn panel<Y>(area: &Area<'_>, timeline: &Timeline, y: Y, lines: &[Line<'_>]) -> Drawing
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let end_s = timeline.samples.last().map_or(1.0, |sample| sample.at_s);
    let (unit_s, unit) = if end_s > LONG_S { (60.0, "minutes") } else { (1.0, "seconds") };
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(16)
        .x_label_area_size(BELOW)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..end_s / unit_s, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_labels(13)
        .y_labels(6)
        .x_label_formatter(&|at| format!("{at:.0}"))
        .y_label_formatter(&|value| crate::report::grouped(crate::report::whole(*value)))
        .x_desc(unit)
        .label_style(("sans-serif", 12))
        .draw()?;
    let heights = chart.y_range();
    for mark in &timeline.marks {
        let at = mark.at_s / unit_s;
        let line = [(at, heights.start), (at, heights.end)];
        chart.draw_series(LineSeries::new(line, RGBColor(215, 120, 120).stroke_width(1)))?;
    }
    for line in lines {
        let points = timeline.samples.iter().map(|sample| (sample.at_s / unit_s, (line.of)(sample)));
        let style = line.color.stroke_width(1);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x.saturating_add(14), y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}
