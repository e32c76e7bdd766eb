//! Objects and tables on standard output.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::args::Text;
use crate::output;

/// Objects, as kubectl reads them: documents of YAML, or a list.
pub(super) fn print_objects(objects: &[Value], text: Text) -> Result<()> {
    match text {
        Text::Yaml => {
            for object in objects {
                output::print(format_args!("---\n{}", yaml(object)?))?;
            }
        }
        Text::Json => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            output::print(format_args!("{list:#}\n"))?;
        }
    }
    Ok(())
}

pub(super) fn yaml(object: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(object).context("cannot write YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Rows below a head, in columns. What comes from the cluster is made safe for a terminal.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.len()).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| output::visible(cell)).collect())
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            let blanks = width.saturating_sub(cell.chars().count()) + 2;
            text.extend(std::iter::repeat_n(' ', blanks));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// How long ago, in one unit: `12s`, `5m`, `3h`, `4d`.
pub(super) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_controls_the_terminal() {
        let row = |name: &str, number: &str| vec![name.to_owned(), number.to_owned()];
        let rows = [row("a\u{1b}[31m", "1"), row("\u{e9}t\u{e9}", "22")];
        let expected = "NAME    N\na\u{fffd}[31m  1\n\u{e9}t\u{e9}     22\n";
        assert_eq!(table(&["NAME", "N"], &rows), expected);
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        assert_eq!(
            [ago(-5), ago(12), ago(300), ago(10_000), ago(400_000)],
            ["0s", "12s", "5m", "2h", "4d"]
        );
    }
}
