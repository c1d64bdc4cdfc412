//! Messages as canonical proto3 JSON, for people and scripts.

use std::sync::LazyLock;

use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).ok());

/// A message of the contract as JSON, fields by their proto names; `null` for one that is not in the contract.
pub fn to_json<M: Name>(message: &M) -> Value {
    dynamic(message)
        .and_then(|message| serialize(&message))
        .unwrap_or(Value::Null)
}

fn dynamic<M: Name>(message: &M) -> Option<DynamicMessage> {
    let descriptor = POOL.as_ref()?.get_message_by_name(&M::full_name())?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
}

fn serialize(message: &DynamicMessage) -> Option<Value> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn enums_and_times_read_as_text() {
        let render = v1::Render {
            name: "tenants/t/renders/r".to_owned(),
            state: v1::RenderState::Queued.into(),
            create_time: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 0,
            }),
            ..v1::Render::default()
        };
        let json = to_json(&render);
        assert_eq!(json["state"], "RENDER_STATE_QUEUED");
        assert_eq!(json["create_time"], "1970-01-01T00:00:00Z");
    }
}
