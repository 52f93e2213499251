//! The manual page is what the command line says of itself. `TRIREME_UPDATE=1 cargo test -p trireme-fsck --test manual` writes it.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a test, not the broker

use std::path::Path;

use clap::CommandFactory;
use trireme_fsck::cli::Cli;

fn page() -> String {
    let command = Cli::command();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone())
        .date("")
        .source("Trireme")
        .manual("Trireme");
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    for subcommand in command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
    {
        let name = subcommand.get_name().to_owned();
        let full = format!("trireme-fsck {name}");
        let man =
            clap_mangen::Man::new(subcommand.clone().display_name(full.clone()).bin_name(full));
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        let mut section = Vec::new();
        man.render_synopsis_section(&mut section).unwrap();
        man.render_description_section(&mut section).unwrap();
        man.render_options_section(&mut section).unwrap();
        page.extend_from_slice(
            String::from_utf8(section)
                .unwrap()
                .replace(".SH ", ".SS ")
                .as_bytes(),
        );
    }
    page.extend_from_slice(
        b".SH FILES\n\
        .TP\n\\fIDIR\\fR/quarantine/repair\\-NNNN\nWhat repair set aside, and its report.json.\n\
        .SH \"SEE ALSO\"\ntools/fsck/README.md: the fields of \\-\\-json.\n",
    );
    String::from_utf8(page).unwrap()
}

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("trireme-fsck.1");
    let page = page();
    if std::env::var_os("TRIREME_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "trireme-fsck.1 is not what --help says: TRIREME_UPDATE=1 cargo test -p trireme-fsck --test manual"
    );
}
