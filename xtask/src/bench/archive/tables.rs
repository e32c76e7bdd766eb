//! Tables for people.

use super::super::report::{self, line};
use super::figures::{Index, OfTraffic, number};

const MIB: f64 = (1 << 20) as f64;

/// The tables of everything that was measured.
pub(crate) fn markdown(all: &[OfTraffic], index: &Index, load: &str) -> String {
    let mut text = format!(
        "{}, one core; load average {load} before.\n",
        report::place()
    );
    sizes(&mut text, all);
    speeds(&mut text, all);
    encryption(&mut text, all);
    imports(&mut text, all);
    of_index(&mut text, index);
    for figures in all {
        let title = format!("{}: bounds", figures.traffic.title());
        report::bounds(&mut text, &title, &figures.bounds());
    }
    report::bounds(&mut text, "The index: bounds", &index.bounds());
    text
}

fn sizes(text: &mut String, all: &[OfTraffic]) {
    text.push_str(
        "\n### Sizes in MiB\n\n| | exchanges | pcap | pcap, `zstd -3` | HAR | HAR, `gzip -6` | mitmproxy \
         | **archive** |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for it in all {
        let mib = |len: u64| len as f64 / MIB;
        let flow = it
            .flow_len
            .map_or_else(|| "–".to_owned(), |len| format!("{:.2}", mib(len)));
        line(
            text,
            format_args!(
                "| {} | {} | {:.1} | {:.2} | {:.1} | {:.2} | {flow} | **{:.2}** |",
                it.traffic.title(),
                number(&it.write, "exchanges"),
                mib(it.pcap_len),
                mib(it.zstd_len),
                mib(it.har_len),
                mib(it.har_gzip_len),
                mib(it.archive_len),
            ),
        );
    }
}

fn speeds(text: &mut String, all: &[OfTraffic]) {
    text.push_str(
        "\n### Writing, reading at random, copying\n\n| | write MiB/s | `zstd -3` MiB/s | random p50 µs | p99 µs \
         | `zstd -d` p50 µs | copy by blocks | written anew |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for it in all {
        let write = |name| number(&it.write, name);
        let rate = |seconds| write("raw") / MIB / write(seconds);
        let micros = |name| number(&it.random, name) * 1e6;
        let copy = |name| number(&it.copy, name);
        line(
            text,
            format_args!(
                "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} s | {:.2} s |",
                it.traffic.title(),
                rate("write_seconds"),
                rate("zstd_seconds"),
                micros("load_p50"),
                micros("load_p99"),
                micros("bare_p50"),
                copy("by_blocks_seconds"),
                copy("anew_seconds"),
            ),
        );
    }
}

fn encryption(text: &mut String, all: &[OfTraffic]) {
    text.push_str(
        "\n### Encrypted, beside the same as it is\n\n| | size | writing | opening | first filter | later ones \
         | reading everything |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for it in all {
        let ratio =
            |name| number(&it.encrypted["encrypted"], name) / number(&it.encrypted["plain"], name);
        line(
            text,
            format_args!(
                "| {} | {:.3} | {:.2} | {:.1} | {:.2} | {:.2} | {:.2} |",
                it.traffic.title(),
                ratio("file_bytes"),
                ratio("write_seconds"),
                ratio("open_seconds"),
                ratio("filter_seconds"),
                ratio("filter_again_seconds"),
                ratio("scan_seconds"),
            ),
        );
    }
}

fn imports(text: &mut String, all: &[OfTraffic]) {
    text.push_str(
        "\n### `tapedeck import` of the HARs\n\n| | MiB | CPU s | resident MiB |\n|---|--:|--:|--:|\n",
    );
    for it in all {
        line(
            text,
            format_args!(
                "| {} | {:.0} | {:.2} | {:.0} |",
                it.traffic.title(),
                it.har_len as f64 / MIB,
                it.har_import.cpu.as_secs_f64(),
                it.har_import.resident_kib as f64 / 1024.0,
            ),
        );
    }
}

fn of_index(text: &mut String, index: &Index) {
    let filter = |name| number(&index.filter, name);
    let per_jq = index.jq / index.jq_exchanges * filter("exchanges");
    line(
        text,
        format_args!(
            "\n### The index\n\n\
             - `response.status >= 400` over {} exchanges on {} pages: {:.2} ms, {} chosen; a sum over the {:.1} MiB of \
             that column: {:.2} ms; `jq` on the HAR of {} of them took {:.1} s, which makes {per_jq:.0} s for all.\n\
             - Opening: {:.0} µs for 10,000 exchanges, {:.0} µs for {}.\n\
             - A scan of {:.1} GiB, every row, record and body: {:.1} MiB of memory beyond the mapping.\n\
             - Recorded live, and flushed each second: {:.0} bytes an exchange at one a second, {:.0} at ten, {:.0} at a \
             hundred, {:.0} where all come at once.",
            filter("exchanges"),
            filter("pages"),
            filter("filter_seconds") * 1e3,
            filter("chosen"),
            filter("column_bytes") / MIB,
            filter("sum_seconds") * 1e3,
            index.jq_exchanges,
            index.jq,
            number(&index.open, "small_seconds") * 1e6,
            number(&index.open, "large_seconds") * 1e6,
            filter("exchanges"),
            number(&index.scan, "file_bytes") / MIB / 1024.0,
            number(&index.scan, "anonymous_kib") / 1024.0,
            number(&index.trickle, "1"),
            number(&index.trickle, "10"),
            number(&index.trickle, "100"),
            number(&index.trickle, "at once"),
        ),
    );
}
