//! What live capture needs, what is missing here, and what it would see.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use tapedeckd::capture::{Diagnosis, Machine, Options, Prognosis, diagnose};

use super::record::backend;
use crate::args;
use crate::output;

pub(crate) fn run(args: &args::Doctor) -> Result<ExitCode> {
    let options = Options {
        backend: backend(args.backend),
        interface: args.interface.clone(),
        cgroup: args.cgroup.clone(),
        ..Options::default()
    };
    let diagnosis = diagnose(&options)?;
    match args.format {
        args::Format::Table => output::print(table(&diagnosis))?,
        args::Format::Json => output::print(format_args!(
            "{}\n",
            serde_json::to_string_pretty(&diagnosis)?
        ))?,
    }
    Ok(match diagnosis.choice {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(crate::FAILED),
    })
}

fn table(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for (what, here) in about(&diagnosis.machine) {
        line(&mut text, format_args!("{what:<26}  {here}"));
    }
    for prognosis in &diagnosis.backends {
        text.push('\n');
        backend_table(&mut text, prognosis);
    }
    text.push('\n');
    match diagnosis.choice {
        Some(choice) => line(&mut text, format_args!("a recording takes {choice}")),
        None => line(&mut text, format_args!("no backend can record here")),
    }
    text
}

fn backend_table(text: &mut String, prognosis: &Prognosis) {
    let verdict = if prognosis.usable {
        "ready"
    } else {
        "not possible"
    };
    line(text, format_args!("{}: {verdict}", prognosis.backend));
    let mut remedies: Vec<&str> = Vec::new();
    for need in &prognosis.needs {
        let mark = if need.met { "ok" } else { "MISSING" };
        line(
            text,
            format_args!("  {mark:<7}  {:<62}  {}", need.what, need.here),
        );
        // That of capabilities is the same for all of them.
        remedies.extend(need.remedy.as_deref().filter(|new| !remedies.contains(new)));
    }
    for remedy in remedies {
        line(text, format_args!("  to do    {remedy}"));
    }
    for sight in &prognosis.sees {
        line(
            text,
            format_args!("  sees     {:<36}  {}", sight.of, sight.seen),
        );
    }
}

fn about(machine: &Machine) -> [(&'static str, String); 8] {
    let yes = |is: bool, yes: &str, no: &str| if is { yes } else { no }.to_owned();
    let unknown = || "unknown".to_owned();
    let cgroup2 = machine.cgroup2.as_deref().map_or_else(
        || "not mounted".to_owned(),
        |path| {
            let whose = yes(
                machine.cgroup2_is_whole,
                "the machine's",
                "a cgroup namespace's",
            );
            format!("{}, {whose}", path.display())
        },
    );
    let unprivileged = match machine.unprivileged_bpf_disabled {
        Some(0) => "allowed to everybody, in part".to_owned(),
        Some(_) => "for those with capabilities only".to_owned(),
        None => unknown(),
    };
    let capabilities = if machine.capabilities.is_empty() {
        "none that matter".to_owned()
    } else {
        machine.capabilities.join(" ")
    };
    [
        ("kernel", format!("Linux {}", machine.kernel)),
        ("cgroup2", cgroup2),
        ("bpf(2)", unprivileged),
        (
            "lockdown",
            machine
                .lockdown
                .clone()
                .unwrap_or_else(|| "none".to_owned()),
        ),
        (
            "seccomp filter",
            yes(machine.seccomp_filter, "yes: it may refuse bpf(2)", "no"),
        ),
        (
            "processes",
            yes(
                machine.pid_namespace_is_whole,
                "those of the machine",
                "those of a process namespace",
            ),
        ),
        ("capabilities in effect", capabilities),
        (
            "TLS",
            format!(
                "read with a key log, from captures and live; without one it stays closed (BTF: {})",
                yes(machine.btf, "there", "missing")
            ),
        ),
    ]
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(text, "{arguments}").unwrap_or_default();
}
