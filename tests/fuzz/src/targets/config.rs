//! The configuration: a file, the environment, flags.

use trireme::config::{Config, Given, SETTINGS, Source};

use crate::targets::directory::scratch;

/// The input is the file; each of its lines `NAME=VALUE` is also a variable of the environment, and a value of every setting.
pub fn config(input: &[u8]) {
    let file = scratch().join("trireme.toml");
    std::fs::write(&file, input).expect("scratch space");
    let loaded = Config::load(Some(&file), std::iter::empty(), Vec::new());
    if let Ok(config) = &loaded {
        // What is shown can be read again, and means the same.
        std::fs::write(&file, config.to_toml()).expect("scratch space");
        let again = Config::load(Some(&file), std::iter::empty(), Vec::new());
        assert_eq!(again.as_ref(), Ok(config), "{}", config.to_toml());
    }
    let text = String::from_utf8_lossy(input);
    for line in text.lines().take(8) {
        let (name, value) = line.split_once('=').unwrap_or((line, line));
        let variable = (format!("TRIREME_{}", name.trim()), value.trim().to_owned());
        let _ = Config::load(None, std::iter::once(variable), Vec::new());
    }
    let Some((first, value)) = input.split_first() else {
        return;
    };
    let setting = &SETTINGS[usize::from(*first) % SETTINGS.len()];
    let given = Given {
        key: setting.key.to_owned(),
        value: String::from_utf8_lossy(value).into_owned(),
        source: Source::Flag("--set".to_owned()),
    };
    let _ = Config::load(None, std::iter::empty(), vec![given]);
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    let whole = Config::default().to_toml();
    let set: String = whole
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|line| line.contains(" = "))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    vec![
        b"data_dir = \"x\"\n[kafka]\nlisten = \"127.0.0.1:0\"\n\"num.partitions\" = 3\n".to_vec(),
        b"DATA_DIR=/x\nKAFKA_NUM_PARTITIONS=12\nENGINE_TAIL_MEMORY=4GiB\n".to_vec(),
        b"\x0564KiB".to_vec(),
        b"\x1210s".to_vec(),
        whole.into_bytes(),
        set.into_bytes(),
    ]
}
