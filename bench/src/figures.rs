//! What was measured: rows of figures, round by round, and what is computed of them.

use std::collections::BTreeMap;

use serde::Serialize;

/// One workload's rows, on one broker.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// `W1`, or `W1 on 4.4.0` for the newer broker.
    pub name: String,
    pub title: String,
    pub kafka: String,
    /// The metrics that its table shows, in order.
    pub columns: Vec<Metric>,
    /// Its rows are the same work, to be compared by the first of the columns.
    pub compared: bool,
    pub rows: Vec<Row>,
    /// What a reader must know of the figures.
    pub notes: Vec<String>,
    /// Why its figures say nothing.
    pub void: Option<String>,
}

/// One contender's figures.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub contender: String,
    /// By metric, a figure a round.
    pub figures: BTreeMap<Metric, Vec<f64>>,
    /// Why there are none, or why they do not count.
    pub void: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Records a second, of the wall time from start to exit.
    RecordsPerS,
    RunsPerS,
    WallS,
    CpuS,
    PeakBytes,
    /// Medians of memory over the halves of the time.
    FirstHalfBytes,
    SecondHalfBytes,
    P50Us,
    P99Us,
    MaxUs,
    /// The longest of records made around a tick's change.
    MaxAtChangesUs,
    /// How far from what was asked for.
    OffByPercent,
    /// Memory of the second half of the time against the first.
    GrowthRatio,
    WallNsPerRecord,
    CpuNsPerRecord,
    BytesWritten,
}

impl Metric {
    pub fn title(self) -> &'static str {
        match self {
            Metric::RecordsPerS => "records/s",
            Metric::RunsPerS => "runs/s",
            Metric::WallS => "wall s",
            Metric::CpuS => "CPU s",
            Metric::PeakBytes => "peak MiB",
            Metric::FirstHalfBytes => "1st half MiB",
            Metric::SecondHalfBytes => "2nd half MiB",
            Metric::P50Us => "p50 ms",
            Metric::P99Us => "p99 ms",
            Metric::MaxUs => "max ms",
            Metric::MaxAtChangesUs => "max at tick changes ms",
            Metric::OffByPercent => "off by %",
            Metric::GrowthRatio => "2nd half / 1st",
            Metric::WallNsPerRecord => "wall ns/record",
            Metric::CpuNsPerRecord => "CPU ns/record",
            Metric::BytesWritten => "MB written",
        }
    }

    pub fn show(self, figure: f64) -> String {
        match self {
            Metric::RecordsPerS | Metric::RunsPerS => thousands(figure),
            Metric::WallNsPerRecord | Metric::CpuNsPerRecord => thousands(figure),
            Metric::WallS | Metric::CpuS => format!("{figure:.2}"),
            Metric::PeakBytes | Metric::FirstHalfBytes | Metric::SecondHalfBytes => {
                format!("{:.1}", figure / f64::from(1 << 20))
            }
            Metric::P50Us | Metric::P99Us | Metric::MaxUs | Metric::MaxAtChangesUs => {
                format!("{:.2}", figure / 1000.0)
            }
            Metric::OffByPercent | Metric::GrowthRatio => format!("{figure:.3}"),
            Metric::BytesWritten => format!("{:.1}", figure / 1e6),
        }
    }
}

impl Section {
    pub fn row(&self, contender: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.contender == contender)
    }
}

impl Row {
    pub fn new(contender: impl Into<String>) -> Row {
        Row { contender: contender.into(), ..Row::default() }
    }

    pub fn add(&mut self, metric: Metric, figure: f64) {
        self.figures.entry(metric).or_default().push(figure);
    }

    /// `None` where the row is void too.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        if self.void.is_some() { None } else { median(self.figures.get(&metric)?) }
    }
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// What is paired round by round, `of` through `to`: the geometric mean of the ratios and the bounds of its
/// 95 % interval (Student's t on their logarithms); `None` of less than two pairs.
pub fn ratio_interval(of: &[f64], to: &[f64]) -> Option<[f64; 3]> {
    let logs: Vec<f64> = of.iter().zip(to).map(|(of, to)| (of / to).ln()).collect();
    let count = logs.len();
    if count < 2 || logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / count as f64;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    let margin = student_t(count - 1) * (variance / count as f64).sqrt();
    Some([mean, mean - margin, mean + margin].map(f64::exp))
}

/// Student's t for 95 % on both sides, by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2);
/// between those listed, that of fewer, which is wider.
fn student_t(freedom: usize) -> f64 {
    const TABLE: [(usize, f64); 14] = [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (6, 2.447),
        (7, 2.365),
        (8, 2.306),
        (9, 2.262),
        (11, 2.201),
        (15, 2.131),
        (20, 2.086),
        (30, 2.042),
        (60, 2.0),
    ];
    let listed = TABLE.iter().rev().find(|(listed, _)| *listed <= freedom);
    listed.map_or(f64::INFINITY, |(_, quantile)| *quantile)
}

/// 1234567.8 as `1,234,568`.
pub fn thousands(figure: f64) -> String {
    if figure.abs() < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_ratio_has_an_interval_by_its_rounds() {
        assert_eq!(ratio_interval(&[1.0], &[1.0]), None);
        let [ratio, low, high] = ratio_interval(&[2.0, 2.0, 2.0], &[1.0, 1.0, 1.0]).unwrap();
        assert!([ratio, low, high].iter().all(|figure| (figure - 2.0).abs() < 1e-9));
        // ln 2 and ln 1/2: mean 0, deviation 0.980, 12.706 × 0.980 ÷ √2 = 8.807.
        let [ratio, low, high] = ratio_interval(&[2.0, 1.0], &[1.0, 2.0]).unwrap();
        assert!((ratio - 1.0).abs() < 1e-9 && (low.ln() + 8.807).abs() < 0.01);
        assert!((high.ln() - 8.807).abs() < 0.01);
        assert!((student_t(10) - 2.262).abs() < 1e-9);
    }

    #[test]
    fn a_void_row_has_no_median() {
        let mut row = Row::new("a");
        assert_eq!(row.median(Metric::WallS), None);
        row.add(Metric::WallS, 2.0);
        assert_eq!(row.median(Metric::WallS), Some(2.0));
        row.void = Some("it read too little".into());
        assert_eq!(row.median(Metric::WallS), None);
    }

    #[test]
    fn large_figures_are_grouped_by_thousands() {
        let shown = [(0.04, "0.0"), (99.94, "99.9"), (123.4, "123"), (999_999.6, "1,000,000")];
        for (figure, text) in shown {
            assert_eq!(thousands(figure), text);
        }
        assert_eq!(Metric::PeakBytes.show(1572864.0), "1.5");
        assert_eq!(Metric::P50Us.show(1250.0), "1.25");
    }
}
