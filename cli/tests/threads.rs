//! However many threads read a capture, the archive says the same.

mod common;

use std::fs;

use common::{Tapedeck, pcaps, temp_folder};

#[test]
fn one_thread_equals_many_on_every_golden_capture() {
    let folder = temp_folder();
    let mut captures = Vec::new();
    for case in fs::read_dir(pcaps()).expect("the golden captures") {
        let files = fs::read_dir(case.expect("a case").path());
        for file in files.into_iter().flatten() {
            let path = file.expect("a file").path();
            if path.file_stem().is_some_and(|stem| stem == "input") {
                captures.push(path);
            }
        }
    }
    captures.sort();
    assert!(captures.len() > 20, "{captures:?}");

    let import = |threads: &str| {
        let archive = folder.path().join(format!("{threads}.tape"));
        let mut args = vec!["import".into(), "--threads".into(), threads.into()];
        args.extend(captures.iter().map(|path| path.as_os_str().to_owned()));
        args.extend(["-o".into(), archive.clone().into()]);
        // Some of the captures are damaged, which the code says.
        let imported = Tapedeck::new(&args).run();
        let list = [
            "ls".as_ref(),
            archive.as_os_str(),
            "--format".as_ref(),
            "json".as_ref(),
        ];
        let listed = Tapedeck::new(list).run();
        assert_eq!(listed.code, 0, "{listed:?}");
        (
            imported.code,
            imported.stderr.replace(&format!("{threads}.tape"), ""),
            listed.stdout,
        )
    };
    let alone = import("1");
    assert!(alone.2.lines().count() > 50, "{alone:?}");
    for threads in ["2", "5"] {
        let together = import(threads);
        assert!(together == alone, "{threads}: {together:?}\nnot: {alone:?}");
    }
}
