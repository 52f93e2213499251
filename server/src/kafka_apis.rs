//! `trireme kafka-apis`: what the Kafka door has, as the door itself knows it.

use trireme_kafka::api::APIS;
use trireme_kafka::configs::topic::TOPIC_CONFIGS;

/// Two Markdown tables.
pub fn table() -> String {
    let mut out = String::from("| API | key | versions |\n| --- | --- | --- |\n");
    let mut apis: Vec<_> = APIS.iter().collect();
    apis.sort_by_key(|api| api.key);
    for api in apis {
        out.push_str(&format!(
            "| {} | {} | {}-{} |\n",
            api.name, api.key, api.min, api.max
        ));
    }
    out.push_str("\n| topic configuration | effect |\n| --- | --- |\n");
    for config in TOPIC_CONFIGS {
        let effect = if config.effect {
            "yes"
        } else {
            "none yet: checked, kept and described"
        };
        out.push_str(&format!("| {} | {effect} |\n", config.name));
    }
    out
}
