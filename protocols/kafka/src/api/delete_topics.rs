//! DeleteTopics, by name or by id. What is answered without error is gone durably, on every core; its space is freed after that.

use std::collections::BTreeSet;

use kacrab_protocol::generated::{
    DeletableTopicResult, DeleteTopicsRequestData, DeleteTopicsResponseData, ErrorCode,
};
use trireme_engine::TopicId;
use trireme_replication::MetadataImage;

use crate::cluster::{self, from_uuid, text, to_uuid};
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 20,
    name: "DeleteTopics",
    min: 1,
    max: 6,
    flexible: 4,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// A topic as it is named: by name, by id, or wrongly.
type Named = (Option<String>, TopicId);

async fn handle(call: Call, request: DeleteTopicsRequestData) -> Answer<DeleteTopicsResponseData> {
    let image = call.door.metadata.image();
    let by_name = request
        .topic_names
        .iter()
        .map(|name| (Some(name.as_str().to_owned()), TopicId::default()));
    let by_state = request.topics.iter().map(|topic| {
        (
            topic.name.as_ref().map(|name| name.as_str().to_owned()),
            from_uuid(topic.topic_id),
        )
    });
    let named: Vec<Named> = by_name.chain(by_state).collect();
    drop(request);

    let mut responses = Vec::with_capacity(named.len());
    let mut doomed = Vec::new();
    let mut waiting = Vec::new();
    let mut seen = BTreeSet::new();
    for named in named {
        let result = match find(&named, &image) {
            Ok(id) if !seen.insert(id) => Err((
                ErrorCode::InvalidRequest,
                "The topic is named more than once.".to_owned(),
            )),
            found => found,
        };
        let (name, id) = named;
        let mut response = DeletableTopicResult::default()
            .with_name(name.map(text))
            .with_topic_id(to_uuid(id));
        match result {
            Ok(id) => {
                if let Some(topic) = image.topic_by_id(&id) {
                    response.name = Some(text(&*topic.name));
                    response.topic_id = to_uuid(id);
                }
                waiting.push(responses.len());
                doomed.push(id);
            }
            Err((code, message)) => {
                response.error_code = code.code();
                if call.version() >= 5 {
                    response.error_message = Some(text(message));
                }
            }
        }
        if response.name.is_none() && call.version() < 6 {
            response.name = Some(text(""));
        }
        responses.push(response);
    }
    if !doomed.is_empty() {
        let results = call.door.metadata.delete_topics(doomed).await;
        for (place, result) in waiting.into_iter().zip(results) {
            if let Err(error) = result {
                let (code, message) = cluster::refused(&error);
                responses[place].error_code = code.code();
                if call.version() >= 5 {
                    responses[place].error_message = Some(text(message));
                }
            }
        }
    }
    Ok(DeleteTopicsResponseData::default().with_responses(responses))
}

fn find((name, id): &Named, image: &MetadataImage) -> Result<TopicId, (ErrorCode, String)> {
    let no_id = *id == TopicId::default();
    cluster::refuse_internal(name.as_deref().unwrap_or_default())?;
    match name {
        Some(_) if !no_id => Err((
            ErrorCode::InvalidRequest,
            "You may not specify both topic name and topic id.".into(),
        )),
        None if no_id => Err((
            ErrorCode::InvalidRequest,
            "Neither topic name nor id were specified.".into(),
        )),
        Some(name) => image.topic(name).map(|topic| topic.id).ok_or((
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.".into(),
        )),
        None => image.topic_by_id(id).map(|topic| topic.id).ok_or((
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.".into(),
        )),
    }
}
