//! Bars of the drains' rates, as SVG: a panel a workload, a logarithmic axis where the rates are far
//! apart.

use std::path::Path;

use mb_bench::Result;
use plotters::prelude::{
    Color, DrawingBackend, IntoDrawingArea, IntoFont, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};
use plotters::style::TextStyle;

use crate::figures::{Metric, Section, thousands};

const WIDTH: u32 = 900;
const LABELS: i32 = 240;
const RIGHT: i32 = 110;
const BAR: i32 = 16;
const STEP: i32 = 24;
const HEAD: i32 = 46;
const FOOT: i32 = 16;
/// From this ratio of the largest to the smallest on, the axis is logarithmic.
const FAR_APART: f64 = 20.0;
const MB: RGBColor = RGBColor(0xd9, 0x6b, 0x1f);
const OTHER: RGBColor = RGBColor(0x6f, 0x83, 0x96);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

struct Panel<'a> {
    title: String,
    bars: Vec<(&'a str, f64)>,
}

/// Writes the chart of those sections that have rates; none where there are none.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, sections: &[Section]) -> Result<bool> {
    let panels: Vec<_> = sections.iter().filter_map(panel).collect();
    if panels.is_empty() {
        return Ok(false);
    }
    let height: i32 = panels.iter().map(Panel::height).sum();
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(told)?;
    let mut top = 0;
    for panel in panels {
        draw(&area, &panel, top)?;
        top += panel.height();
    }
    area.present().map_err(told)?;
    Ok(true)
}

fn told(cause: impl std::fmt::Display) -> String {
    format!("the chart cannot be drawn: {cause}")
}

fn panel(section: &Section) -> Option<Panel<'_>> {
    if !["W1", "W2", "W3"].contains(&section.name.split(' ').next()?) {
        return None;
    }
    let bars = section
        .rows
        .iter()
        .filter_map(|row| Some((row.contender.as_str(), row.median(Metric::RecordsPerS)?)));
    let mut bars: Vec<_> = bars.collect();
    bars.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let is_void = if section.void.is_some() { ", void" } else { "" };
    let title = format!("{}: {} (Kafka {}){is_void}", section.name, section.title, section.kafka);
    (!bars.is_empty()).then_some(Panel { title, bars })
}

impl Panel<'_> {
    fn height(&self) -> i32 {
        HEAD + self.bars.len() as i32 * STEP + FOOT
    }

    /// The axis: how far along it a rate is, from 0 to 1, and where its marks are.
    fn axis(&self) -> Axis {
        let most = self.bars.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let least = self.bars.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
        if most / least > FAR_APART {
            Axis { from: 10_f64.powf(least.log10().floor()), to: most, is_log: true }
        } else {
            Axis { from: 0.0, to: most, is_log: false }
        }
    }
}

struct Axis {
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    fn along(&self, rate: f64) -> f64 {
        if self.is_log {
            // Never no bar at all: the smallest may be the axis' own beginning.
            ((rate / self.from).log10() / (self.to / self.from).log10()).max(0.01)
        } else {
            rate / self.to
        }
    }

    fn marks(&self) -> Vec<f64> {
        if self.is_log {
            let powers = std::iter::successors(Some(self.from), |mark| Some(mark * 10.0));
            return powers.take_while(|mark| *mark <= self.to).collect();
        }
        let step = 10_f64.powf(self.to.log10().floor());
        (0..=10)
            .map(|number| f64::from(number) * step)
            .take_while(|mark| *mark <= self.to)
            .collect()
    }
}

fn draw<D: DrawingBackend>(
    area: &plotters::drawing::DrawingArea<D, plotters::coord::Shift>,
    panel: &Panel<'_>,
    top: i32,
) -> Result<()>
where
    D::ErrorType: 'static,
{
    // plotters writes four fifths of the size that it is asked for.
    let font = |size: i32| -> TextStyle<'_> { ("sans-serif", size).into_font().color(&INK) };
    let axis = panel.axis();
    let room = f64::from(WIDTH as i32 - LABELS - RIGHT);
    let x = |rate: f64| LABELS + (axis.along(rate) * room) as i32;
    let bottom = top + panel.height() - FOOT;
    area.draw(&Text::new(panel.title.clone(), (12, top + 10), font(18))).map_err(told)?;
    let scale = if axis.is_log { "records/s, logarithmic" } else { "records/s" };
    area.draw(&Text::new(scale, (12, top + 30), font(14))).map_err(told)?;
    for mark in axis.marks() {
        let at = x(mark);
        let line = Rectangle::new([(at, top + HEAD - 4), (at + 1, bottom)], FAINT.filled());
        area.draw(&line).map_err(told)?;
        area.draw(&Text::new(thousands(mark), (at - 4, top + 30), font(13))).map_err(told)?;
    }
    for (index, (name, rate)) in panel.bars.iter().enumerate() {
        let y = top + HEAD + index as i32 * STEP;
        let color = if name.starts_with("mb-") { MB } else { OTHER };
        area.draw(&Text::new((*name).to_owned(), (24, y + 2), font(16))).map_err(told)?;
        let bar = Rectangle::new([(LABELS, y), (x(*rate), y + BAR)], color.filled());
        area.draw(&bar).map_err(told)?;
        let figure = Text::new(thousands(*rate), (x(*rate) + 6, y + 2), font(16));
        area.draw(&figure).map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Row;

    fn section(rates: &[f64]) -> Section {
        let mut section = Section { name: "W1".into(), ..Section::default() };
        for (index, rate) in rates.iter().enumerate() {
            let mut row = Row::new(format!("mb-{index}"));
            row.add(Metric::RecordsPerS, *rate);
            section.rows.push(row);
        }
        section
    }

    #[test]
    fn rates_far_apart_have_a_logarithmic_axis() {
        let near = section(&[1e6, 2e6]);
        assert!(!panel(&near).unwrap().axis().is_log);
        let far = section(&[500.0, 2e6]);
        let axis = panel(&far).unwrap().axis();
        assert!(axis.is_log && axis.marks() == [100.0, 1e3, 1e4, 1e5, 1e6]);
        assert!((axis.along(2e6) - 1.0).abs() < 1e-9 && axis.along(500.0) > 0.0);
    }

    #[test]
    fn a_chart_has_a_bar_for_each_contender() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.svg");
        assert!(!write(&path, &[]).unwrap());
        assert!(write(&path, &[section(&[1e6, 2e6])]).unwrap());
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(svg.contains("mb-0") && svg.contains("mb-1") && svg.contains("2,000,000"), "{svg}");
    }
}
