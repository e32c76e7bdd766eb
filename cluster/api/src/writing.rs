//! How a status is written.

use http::Request;
use kube::Resource;
use serde::Serialize;
use serde_json::json;

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The status cannot be written.
    #[error("the status is no JSON")]
    Json(#[from] serde_json::Error),
    /// The name of the object does not fit into a path.
    #[error("there is no such object")]
    Http(#[from] http::Error),
}

/// The request that puts a status in the place of the one that is there. Its answer is the object.
///
/// By JSON patch, as the API server then leaves out what an older definition does not know. What is applied
/// server-side it refuses as a whole ("field not declared in schema"), with everything that the definition does know.
///
/// # Errors
///
/// When the name is none.
pub fn replaced_status<K>(
    namespace: Option<&str>,
    name: &str,
    manager: &str,
    status: &impl Serialize,
) -> Result<Request<Vec<u8>>, RequestError>
where
    K: Resource<DynamicType = ()>,
{
    let path = K::url_path(&(), namespace);
    let change = json!([{ "op": "add", "path": "/status", "value": status }]);
    let request = Request::patch(format!("{path}/{name}/status?fieldManager={manager}"))
        .header("content-type", "application/json-patch+json")
        .header("accept", "application/json")
        .body(serde_json::to_vec(&change)?)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeReport, NodeReportStatus, Recording, RecordingStatus};

    #[test]
    fn requests_are_those_of_the_sub_resource() {
        let status = RecordingStatus::default();
        let request = replaced_status::<Recording>(Some("shop"), "a", "m", &status).unwrap();
        assert_eq!(
            request.uri(),
            "/apis/tapedeck.dev/v1alpha1/namespaces/shop/recordings/a/status?fieldManager=m"
        );
        let status = NodeReportStatus::default();
        let request = replaced_status::<NodeReport>(None, "n-1.example", "m", &status).unwrap();
        assert_eq!(
            request.uri(),
            "/apis/tapedeck.dev/v1alpha1/nodereports/n-1.example/status?fieldManager=m"
        );
        assert!(replaced_status::<NodeReport>(None, "a b", "m", &status).is_err());
    }
}
