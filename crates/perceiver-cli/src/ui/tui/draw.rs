//! Draws the view: head, curves, warnings, and the log or the table of epochs, in any size.

use perceiver_report::{RunState, Snapshot};
use perceiver_train::EpochMetrics;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Borders, Chart, Dataset, Gauge, GraphType, LegendPosition, Paragraph, Wrap,
};

use crate::ui::escape;
use crate::ui::tui::curves::{Plot, labels, plots};

/// The least size of a chart, in characters.
const CHART: (u16, u16) = (34, 9);

/// The colors of the curves: that of training and that of validation.
const CURVES: [Color; 2] = [Color::Cyan, Color::Yellow];

/// What the view shows.
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The log of this process, in a training.
    pub(super) log: Option<&'a [String]>,
    /// Whether this process trains the run.
    pub(super) is_training: bool,
}

/// Draws the view in the whole frame.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    let measurements = measurements(view, area.width);
    let warnings = warnings(view);
    let head = 2 + measurements.len() as u16;
    let alert = match warnings.len() as u16 {
        0 => 0,
        count => (2 + 2 * count).min(area.height / 4),
    };
    let rest = area.height.saturating_sub(head + alert + 1);
    let below = (rest / 3).clamp(0, 14);
    let [top, charts, alerts, bottom, keys] = Layout::vertical([
        Constraint::Length(head),
        Constraint::Fill(1),
        Constraint::Length(alert),
        Constraint::Length(below),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, top, view, measurements);
    draw_charts(frame, charts, view);
    if alert > 0 {
        let block = Block::new()
            .borders(Borders::TOP)
            .title("warnings")
            .style(Style::new().fg(Color::Red));
        let text = Paragraph::new(warnings).wrap(Wrap { trim: true });
        frame.render_widget(text.block(block), alerts);
    }
    draw_bottom(frame, bottom, view);
    let text = if view.is_training {
        "q close this view, training goes on   Ctrl-C stop and save"
    } else {
        "q close"
    };
    frame.render_widget(Paragraph::new(text).style(quiet()), keys);
}

fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Returns the measurements of the epoch in training, in as many lines as the width needs.
fn measurements(view: &View<'_>, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    let mut used = 0;
    for (name, value) in view.snapshot.measurements() {
        let length = name.len() + 1 + value.chars().count() + 3;
        if used + length > usize::from(width) && used > 0 {
            lines.push(Line::default());
            used = 0;
        }
        used += length;
        if let Some(line) = lines.last_mut() {
            line.push_span(Span::styled(format!("{name} "), quiet()));
            line.push_span(Span::styled(value, bold()));
            line.push_span("   ");
        }
    }
    lines
}

fn warnings(view: &View<'_>) -> Vec<Line<'static>> {
    let run = &view.snapshot.run;
    let of_epochs = run.epochs.iter().flat_map(|epoch| &epoch.warnings);
    let now = view.snapshot.running().map(|now| &now.warnings);
    let all = of_epochs.chain(now.into_iter().flatten());
    let mut lines: Vec<Line<'static>> = all
        .map(|warning| Line::from(line(&format!("step {}: {warning}", warning.step))))
        .collect();
    if let Some(problem) = &view.snapshot.problem {
        lines.push(Line::from(line(problem)));
    }
    lines.reverse(); // the newest first
    lines
}

/// Returns text from outside as one line without control characters.
fn line(text: &str) -> String {
    escape::line(text.trim_end()).into_owned()
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &View<'_>, measurements: Vec<Line<'static>>) {
    let snapshot = view.snapshot;
    let state = match snapshot.state {
        RunState::Running => Color::Cyan,
        RunState::Finished => Color::Green,
        RunState::Stopped => Color::Red,
    };
    let [title, bar, values] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let text = Line::from(vec![
        Span::styled(line(&snapshot.run.name), bold()),
        Span::raw("  "),
        Span::styled(snapshot.label(), bold().fg(state)),
        Span::raw("  "),
        Span::raw(line(&snapshot.position())),
    ]);
    let text = Paragraph::new(text).wrap(Wrap { trim: true });
    if let Some(share) = snapshot.share() {
        frame.render_widget(text, title);
        let gauge = Gauge::default()
            .ratio(share.clamp(0.0, 1.0))
            .label(format!("{:.0}%", 100.0 * share))
            .gauge_style(Style::new().fg(state));
        frame.render_widget(gauge, bar);
    } else {
        frame.render_widget(text, title.union(bar)); // how to resume may need two lines
    }
    frame.render_widget(Paragraph::new(measurements), values);
}

/// Draws as many charts as have room, in rows of equal charts.
fn draw_charts(frame: &mut Frame<'_>, area: Rect, view: &View<'_>) {
    let plots = plots(&view.snapshot.run);
    let columns = (area.width / CHART.0).clamp(1, 3);
    let columns = if columns == 3 && area.height < 2 * CHART.1 {
        2
    } else {
        columns
    };
    let most_rows = (plots.len() as u16).div_ceil(columns);
    let rows = (area.height / CHART.1).clamp(1, most_rows);
    let lines = Layout::vertical((0..rows).map(|_| Constraint::Fill(1))).split(area);
    let mut places = lines.iter().flat_map(|&line| {
        let columns = Layout::horizontal((0..columns).map(|_| Constraint::Fill(1)));
        columns.spacing(2).split(line).to_vec()
    });
    for plot in &plots {
        let Some(place) = places.next() else {
            return;
        };
        draw_chart(frame, place, plot);
    }
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, plot: &Plot) {
    let several = plot.curves.len() > 1;
    let mut title = vec![Span::styled(plot.title, bold())];
    if several {
        for (curve, color) in plot.curves.iter().zip(CURVES) {
            let last = curve.points.last();
            let last = last.map_or(String::new(), |&(_, value)| {
                format!(" {value:.*}", if value.abs() < 10.0 { 3 } else { 2 })
            });
            title.push(Span::styled(
                format!("  {}{last}", curve.name),
                Style::new().fg(color),
            ));
        }
    }
    let block = Block::new().title(Line::from(title));
    let Some((x, y)) = plot.ranges() else {
        let text = Paragraph::new("no values yet").style(quiet());
        return frame.render_widget(text.block(block), area);
    };
    let datasets = plot.curves.iter().zip(CURVES).map(|(curve, color)| {
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(color))
            .data(&curve.points)
    });
    let axis = |bounds: [f64; 2]| Axis::default().bounds(bounds).style(quiet());
    let [first, _, last] = labels(x);
    let chart = Chart::new(datasets.collect())
        .block(block)
        .legend_position(None::<LegendPosition>)
        .x_axis(axis(x).labels([first, "epoch".to_string(), last]))
        .y_axis(axis(y).labels(labels(y)));
    frame.render_widget(chart, area);
}

/// Draws the end of the log in a training, and otherwise the last epochs.
fn draw_bottom(frame: &mut Frame<'_>, area: Rect, view: &View<'_>) {
    let block = Block::new().borders(Borders::TOP).border_style(quiet());
    let rows = usize::from(area.height.saturating_sub(1));
    if let Some(log) = view.log {
        let newest = log.iter().skip(log.len().saturating_sub(rows));
        let lines: Vec<String> = newest
            .flat_map(|text| wrapped(&without_colors(text), usize::from(area.width)))
            .collect();
        let lines = &lines[lines.len().saturating_sub(rows)..];
        let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::from(&line[..])).collect();
        let text = Paragraph::new(lines).block(block.title("log"));
        return frame.render_widget(text, area);
    }
    let epochs = &view.snapshot.run.epochs;
    let kept = view.snapshot.run.kept_epoch();
    let shown = epochs
        .iter()
        .skip(epochs.len().saturating_sub(rows.saturating_sub(1)));
    let head = "epoch    loss   accuracy   validation loss   accuracy   seconds";
    let mut lines = vec![Line::styled(head, quiet())];
    lines.extend(shown.map(|epoch| Line::from(epoch_row(epoch, kept == Some(epoch.epoch)))));
    frame.render_widget(
        Paragraph::new(lines).block(block.title("last epochs, * has the lowest validation loss")),
        area,
    );
}

/// Breaks a log line between words into lines of at most `width` characters, the later ones indented.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "      "; // as wide as the level
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.chars().count() + word.trim_end().chars().count() <= width || line.trim().is_empty()
        {
            line.push_str(word);
        } else {
            lines.push(format!("{INDENT}{word}"));
        }
    }
    lines
}

fn epoch_row(epoch: &EpochMetrics, is_kept: bool) -> String {
    format!(
        "{:>5}  {:.4}   {:>7.2}%   {:>15.4}   {:>7.2}%   {:>7.1}{}",
        epoch.epoch,
        epoch.loss,
        100.0 * epoch.acc,
        epoch.val_loss,
        100.0 * epoch.val_acc,
        epoch.seconds,
        if is_kept { " *" } else { "" }
    )
}

/// Removes the colors of a log line: escape sequences from `ESC [` to a letter.
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        plain.push_str(
            part.trim_start_matches(|code: char| !code.is_ascii_alphabetic())
                .get(1..)
                .unwrap_or_default(),
        );
    }
    line(&plain)
}
