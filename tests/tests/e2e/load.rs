//! Many attachments at the same time. `make load` runs it whole: 200 attachments by 32 workers for two minutes.

use tests::{
    Host, case,
    load::{self, Left, Load},
    settings, skip,
};

#[test]
#[allow(clippy::print_stderr, reason = "for whoever runs it by itself, or reads why it failed")]
fn many_at_once_are_neither_mixed_up_nor_left() {
    case(|| {
        if settings::is_reference() {
            skip("it mixes the reference in, and judges ours");
        }
        let host = Host::new();
        let load = Load::from_env(60, 16, 8);
        eprintln!("load: {load:?}");
        let (report, books, [before, after]) = load::run(&host, &load);
        let left = Left::new(&host, &books, &before.diff(&after));
        let cleaned = Left::new(&host, &books, &before.diff(&load::clean(&host))).after_gc();
        eprintln!("{} attachments\n{report}left: {:#?}\nafter GC: {:#?}", books.len(), left.known, cleaned.known);
        let faults = (report.faults(), left.unknown, cleaned.unknown);
        assert!(
            faults.0.is_empty() && faults.1.is_empty() && faults.2.is_empty(),
            "LOAD_SEED={}: faults, what is left, and what is left after GC: {faults:#?}",
            load.seed
        );
    });
}
