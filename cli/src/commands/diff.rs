use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tapedeck_replayer::mock::{Diff, DiffOptions, DiffedRequest};

use super::mock;
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Diff) -> Result<ExitCode> {
    let rules = match mock::rules(args.rules.as_deref()) {
        Ok(rules) => rules,
        Err(error) => {
            output::error(&error);
            return Ok(ExitCode::from(crate::USAGE));
        }
    };
    let open = |path: &Path| super::open(&[path], &args.identity).map(Arc::new);
    let options = DiffOptions {
        rules,
        filter: args.filter.clone(),
        ..DiffOptions::default()
    };
    let diff = Diff::of(open(&args.recorded)?, open(&args.received)?, &options)
        .context("failed to compare the archives")?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Table => table(&diff, &mut out)?,
        Format::Json => writeln!(out, "{:#}", document(&diff))?,
    }
    out.flush()?;
    drop(out);
    for (left_out, path) in diff.left_out.iter().zip([&args.recorded, &args.received]) {
        if *left_out > 0 {
            output::warn(format_args!(
                "{left_out} requests in {} are not compared: they are not whole, or only ask for a tunnel",
                path.display()
            ));
        }
    }
    if args.format == Format::Table && !diff.remedies.is_empty() {
        output::say("rules by which changed requests would be the same; read before use:");
        mock::tell_rules(&diff.remedies);
    }
    Ok(if diff.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::FAILED)
    })
}

fn table(diff: &Diff, out: &mut impl Write) -> io::Result<()> {
    let line = |request: &DiffedRequest| {
        let DiffedRequest { method, target, .. } = request;
        output::visible(&format!("{method} {target}"))
    };
    for changed in &diff.changed.list {
        let (recorded, received) = (&changed.recorded, &changed.received);
        let ids = format!("recorded {}, received {}", recorded.id, received.id);
        writeln!(out, "changed  {} ({ids})", line(recorded))?;
        for part in &changed.differs {
            writeln!(out, "           {}", output::visible(part))?;
        }
    }
    let more = |out: &mut dyn Write, what: &str, total: u64, listed: usize| {
        let rest = total.saturating_sub(listed as u64);
        if rest > 0 {
            writeln!(out, "{what}  ... and {rest} more")?;
        }
        io::Result::Ok(())
    };
    more(out, "changed", diff.changed.total, diff.changed.list.len())?;
    for missing in &diff.missing.list {
        writeln!(out, "missing  {} (recorded {})", line(missing), missing.id)?;
    }
    more(out, "missing", diff.missing.total, diff.missing.list.len())?;
    for added in &diff.added.list {
        let request = &added.received;
        write!(out, "added    {} (received {}", line(request), request.id)?;
        match added.recorded {
            0 => writeln!(out, ")")?,
            times => writeln!(out, "; recorded only {times} times)")?,
        }
    }
    more(out, "added  ", diff.added.total, diff.added.list.len())?;
    writeln!(
        out,
        "{} the same, {} changed, {} missing, {} added",
        diff.same, diff.changed.total, diff.missing.total, diff.added.total
    )
}

fn document(diff: &Diff) -> Value {
    let request = |request: &DiffedRequest| {
        let DiffedRequest { id, method, target } = request;
        json!({ "id": id, "method": method, "target": target })
    };
    let changed = diff.changed.list.iter().map(|changed| {
        json!({
            "recorded": request(&changed.recorded),
            "received": request(&changed.received),
            "differs": changed.differs,
        })
    });
    let added = diff.added.list.iter().map(
        |added| json!({ "received": request(&added.received), "recorded_times": added.recorded }),
    );
    let rules = diff
        .remedies
        .iter()
        .map(|remedy| json!({ "rule": remedy.rule, "requests": remedy.requests }));
    let [recorded, received] = diff.left_out;
    json!({
        "totals": {
            "same": diff.same,
            "changed": diff.changed.total,
            "missing": diff.missing.total,
            "added": diff.added.total,
        },
        "changed": changed.collect::<Vec<_>>(),
        "missing": diff.missing.list.iter().map(request).collect::<Vec<_>>(),
        "added": added.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
        "not_compared": { "recorded": recorded, "received": received },
    })
}
