//! Formatting and clippy.

use anyhow::Result;

use crate::shell::{cargo, run, say};

pub(crate) fn run_available() -> Result<()> {
    for (component, args) in [
        ("fmt", &["fmt", "--all", "--check"][..]),
        (
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        ),
    ] {
        if cargo(&[component, "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            run(&mut cargo(args))?;
        } else {
            say(&format!("cargo {component} is not installed: skipped"));
        }
    }
    Ok(())
}

pub(crate) fn run_all() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}
