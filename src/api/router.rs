//! The table of endpoints, and the way of every call through it: route, secret, required
//! parameters, handler.

use std::sync::Arc;

use super::params::Params;
use super::wire::{Code, Failure};
use super::{
    Caller, Node, absences, auth, media, origins, proxy, push, server, session, update, why,
};
use crate::config::Config;
use crate::media::StreamKey;
use crate::media::key::KeyError;
use crate::proto::http::{Request, Response};

/// One call of an endpoint that may be answered.
pub(super) struct Call<'a, N> {
    pub(super) node: &'a N,
    pub(super) caller: &'a Caller,
    pub(super) params: Params,
    pub(super) config: Arc<Config>,
}

impl<N: Node> Call<'_, N> {
    /// The key that `app` and `stream` name. All streams are in the default vhost, whatever the
    /// caller calls it: ZLMediaKit puts the caller's word into the key of a pull but not into that
    /// of its stream, so that neither is found under the other.
    pub(super) fn key(&self) -> Result<StreamKey, KeyError> {
        StreamKey::in_default_vhost(self.params.text("app"), self.params.text("stream"))
    }
}

struct Route {
    name: &'static str,
    required: &'static [&'static str],
    endpoint: Endpoint,
}

impl Route {
    /// Whether there is more to it than that it is refused.
    fn is_served(&self) -> bool {
        !matches!(self.endpoint, Endpoint::RestartServer)
    }
}

#[derive(Debug, Clone, Copy)]
enum Endpoint {
    AddStreamProxy,
    AddStreamPusherProxy,
    CloseStream,
    CloseStreams,
    DelNegativeCache,
    DelStreamProxy,
    DelStreamPusherProxy,
    GetAllSession,
    GetApiList,
    GetMediaInfo,
    GetMediaList,
    GetMediaPlayerList,
    GetNegativeCache,
    GetOrigins,
    GetProxyInfo,
    GetProxyPusherInfo,
    GetServerConfig,
    GetStatistic,
    GetThreadsLoad,
    GetWorkThreadsLoad,
    IsMediaOnline,
    KickSession,
    KickSessions,
    ListStreamProxy,
    ListStreamPusherProxy,
    ProbeStream,
    ReloadConfig,
    RestartServer,
    SetServerConfig,
    UpdateStreamProxy,
    Version,
    Why,
}

impl Endpoint {
    /// Whether what it says must be true after a crash.
    fn is_kept(self) -> bool {
        matches!(
            self,
            Self::AddStreamProxy
                | Self::AddStreamPusherProxy
                | Self::CloseStream
                | Self::CloseStreams
                | Self::DelStreamProxy
                | Self::DelStreamPusherProxy
                | Self::UpdateStreamProxy
        )
    }
}

/// Whether a path is of the API, served or not.
pub(super) fn is_api(path: &str) -> bool {
    name_of(path).is_some()
}

/// The paths that are served, in the order in which ZLMediaKit lists them.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let named = ROUTES.iter().filter(|route| route.is_served());
    let named = named.map(|route| format!("{API_ROOT}{}", route.name));
    std::iter::once(ROOT.to_owned()).chain(named)
}

pub(super) async fn handle<N: Node>(node: &N, caller: &Caller, request: &Request) -> Response {
    let Some(route) = find(&request.path) else {
        let failure = Failure::new(Code::NotFound, format!("no such API: {}", request.path));
        return failure.response(404);
    };
    let config = node.config();
    let params = Params::of(request);
    let call = Call { node, caller, params, config };
    let result = match admit(&call, route) {
        Ok(()) => answer(&call, route.endpoint).await,
        Err(failure) => Err(failure),
    };
    result.unwrap_or_else(|failure| failure.response(200))
}

fn admit<N: Node>(call: &Call<'_, N>, route: &Route) -> Result<(), Failure> {
    auth::check(&call.config, call.caller, &call.params)?;
    if route.required.iter().all(|name| call.params.find(name).is_some()) {
        return Ok(());
    }
    let quoted: Vec<String> = route.required.iter().map(|name| format!("\"{name}\"")).collect();
    let msg = format!("Required parameter missed: {}", quoted.join(","));
    Err(Failure::new(Code::InvalidArgs, msg))
}

/// An answer that is true when it is given, and after a crash.
async fn answer<N: Node>(call: &Call<'_, N>, endpoint: Endpoint) -> Result<Response, Failure> {
    let result = dispatch(call, endpoint).await;
    // A failure may have ended something that was kept.
    let is_true = !endpoint.is_kept() || call.node.persisted(call.bound()).await;
    match result {
        Ok(_) if !is_true => Err(Failure::new(Code::Exception, NOT_KEPT)),
        result => result,
    }
}

async fn dispatch<N: Node>(call: &Call<'_, N>, endpoint: Endpoint) -> Result<Response, Failure> {
    match endpoint {
        Endpoint::AddStreamProxy => proxy::add(call).await,
        Endpoint::DelStreamProxy => proxy::delete(call).await,
        Endpoint::DelNegativeCache => absences::forget(call).await,
        Endpoint::GetNegativeCache => absences::list(call).await,
        Endpoint::GetOrigins => origins::list(call).await,
        Endpoint::ListStreamProxy => proxy::list(call).await,
        Endpoint::GetProxyInfo => proxy::show(call).await,
        Endpoint::AddStreamPusherProxy => push::add(call).await,
        Endpoint::DelStreamPusherProxy => push::delete(call).await,
        Endpoint::ListStreamPusherProxy => push::list(call).await,
        Endpoint::GetProxyPusherInfo => push::show(call).await,
        Endpoint::CloseStream => media::close(call).await,
        Endpoint::CloseStreams => media::close_all(call).await,
        Endpoint::GetMediaList => media::list(call).await,
        Endpoint::GetMediaInfo => media::show(call).await,
        Endpoint::IsMediaOnline => media::is_online(call).await,
        Endpoint::GetMediaPlayerList => media::list_players(call).await,
        Endpoint::GetAllSession => session::list(call).await,
        Endpoint::KickSession => session::kick(call).await,
        Endpoint::KickSessions => session::kick_all(call).await,
        Endpoint::GetApiList => Ok(server::list_api().await),
        Endpoint::GetServerConfig => Ok(server::show_config(call)),
        Endpoint::ProbeStream => proxy::probe(call).await,
        Endpoint::ReloadConfig => server::reload_config(call).await,
        Endpoint::RestartServer => Err(server::refuse_restart()),
        Endpoint::SetServerConfig => server::set_config(call).await,
        Endpoint::GetStatistic => server::show_statistic(call).await,
        Endpoint::GetThreadsLoad => Ok(server::list_load(call).await),
        Endpoint::GetWorkThreadsLoad => Ok(server::list_work_load().await),
        Endpoint::UpdateStreamProxy => update::sources(call).await,
        Endpoint::Version => Ok(server::show_version()),
        Endpoint::Why => why::explain(call).await,
    }
}

fn find(path: &str) -> Option<&'static Route> {
    let name = match name_of(path)? {
        "" => "getApiList",
        name => name,
    };
    ROUTES.iter().find(|route| route.name.eq_ignore_ascii_case(name))
}

/// What stands after the API's root; empty for `/index/` alone, which lists the API.
fn name_of(path: &str) -> Option<&str> {
    if path.eq_ignore_ascii_case(ROOT) {
        return Some("");
    }
    let (root, name) = path.split_at_checked(API_ROOT.len())?;
    (root.eq_ignore_ascii_case(API_ROOT) && !name.is_empty()).then_some(name)
}

/// It was done all the same, and is written when the disk takes it.
const NOT_KEPT: &str = "done, but the journal is not written yet: a crash would undo it";

const ROOT: &str = "/index/";
const API_ROOT: &str = "/index/api/";

const STREAM: &[&str] = &["schema", "vhost", "app", "stream"];

/// In the order of `getApiList`: by name in lower case.
const ROUTES: &[Route] = &[
    route("addStreamProxy", &["vhost", "app", "stream", "url"], Endpoint::AddStreamProxy),
    route(
        "addStreamPusherProxy",
        &["schema", "vhost", "app", "stream", "dst_url"],
        Endpoint::AddStreamPusherProxy,
    ),
    route("close_stream", STREAM, Endpoint::CloseStream),
    route("close_streams", &[], Endpoint::CloseStreams),
    route("delNegativeCache", &[], Endpoint::DelNegativeCache),
    route("delStreamProxy", &["key"], Endpoint::DelStreamProxy),
    route("delStreamPusherProxy", &["key"], Endpoint::DelStreamPusherProxy),
    route("getAllSession", &[], Endpoint::GetAllSession),
    route("getApiList", &[], Endpoint::GetApiList),
    route("getMediaInfo", STREAM, Endpoint::GetMediaInfo),
    route("getMediaList", &[], Endpoint::GetMediaList),
    route("getMediaPlayerList", STREAM, Endpoint::GetMediaPlayerList),
    route("getNegativeCache", &[], Endpoint::GetNegativeCache),
    route("getOrigins", &[], Endpoint::GetOrigins),
    route("getProxyInfo", &["key"], Endpoint::GetProxyInfo),
    route("getProxyPusherInfo", &["key"], Endpoint::GetProxyPusherInfo),
    route("getServerConfig", &[], Endpoint::GetServerConfig),
    route("getStatistic", &[], Endpoint::GetStatistic),
    route("getThreadsLoad", &[], Endpoint::GetThreadsLoad),
    route("getWorkThreadsLoad", &[], Endpoint::GetWorkThreadsLoad),
    route("isMediaOnline", STREAM, Endpoint::IsMediaOnline),
    route("kick_session", &["id"], Endpoint::KickSession),
    route("kick_sessions", &[], Endpoint::KickSessions),
    route("listStreamProxy", &[], Endpoint::ListStreamProxy),
    route("listStreamPusherProxy", &[], Endpoint::ListStreamPusherProxy),
    route("probeStream", &["url"], Endpoint::ProbeStream),
    route("reloadConfig", &[], Endpoint::ReloadConfig),
    route("restartServer", &[], Endpoint::RestartServer),
    route("setServerConfig", &[], Endpoint::SetServerConfig),
    route("updateStreamProxy", &["key"], Endpoint::UpdateStreamProxy),
    route("version", &[], Endpoint::Version),
    route("why", &[], Endpoint::Why),
];

const fn route(name: &'static str, required: &'static [&'static str], endpoint: Endpoint) -> Route {
    Route { name, required, endpoint }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::testing::{FakeNode, SECRET};
    use crate::media::ShardId;

    #[test]
    fn paths_are_exact_in_any_case() {
        let node = FakeNode::new();
        let table = [
            ("/INDEX/API/VERSION", 200),
            ("/index/%61pi/version", 200),
            ("/index/", 200),
            ("/Index/", 200),
            ("/index", 404),
            ("/index/api/", 404),
            ("/index/api/version/", 404),
            ("/index/api/nosuch", 404),
            ("/index/api/v%C3%A9rsion", 404),
            ("//index/api/version", 404),
            ("/", 404),
        ];
        for (path, status) in table {
            let head = format!("GET {path}?secret={SECRET} HTTP/1.1");
            assert_eq!(node.exchange(&head, "").finish().status, status, "{path}");
        }
    }

    #[test]
    fn every_method_calls() {
        let node = FakeNode::new();
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let head = format!("{method} /index/api/version?secret={SECRET} HTTP/1.1");
            assert_eq!(node.exchange(&head, "").finish().json()["code"], 0, "{method}");
        }
    }

    #[test]
    fn unknown_name_is_named_and_the_connection_stays() {
        let reply = FakeNode::new().exchange("GET /index/api/no%22such HTTP/1.1", "").finish();
        assert_eq!(reply.status, 404);
        assert!(reply.head.contains("Connection: keep-alive"), "{}", reply.head);
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body, json!({"code": -500, "msg": "no such API: /index/api/no\"such"}));
    }

    #[test]
    fn list_of_the_api_is_sorted_and_served() {
        let node = FakeNode::new();
        let list = node.call("getApiList", &[]);
        let paths: Vec<String> = serde_json::from_value(list["data"].clone()).unwrap();
        assert_eq!(paths.len(), 32);
        assert!(paths.is_sorted_by_key(|path| path.to_ascii_lowercase()), "{paths:?}");
        assert!(!paths.iter().any(|path| path.ends_with("restartServer")));
        for path in paths {
            let reply = node.exchange(&format!("GET {path} HTTP/1.1"), "").finish();
            assert_eq!(reply.json()["code"], -100, "{path} needs the secret");
        }
    }

    #[test]
    fn who_wants_a_restart_is_told_that_none_is_needed() {
        let reply = FakeNode::new().call("restartServer", &[]);
        assert_eq!(reply["code"], -1);
        assert!(reply["msg"].as_str().is_some_and(|msg| msg.contains("at once")), "{reply}");
    }

    #[test]
    fn missing_parameters_name_the_whole_list() {
        let node = FakeNode::new();
        let stream = r#""schema","vhost","app","stream""#;
        let table = [
            ("addStreamProxy", r#""vhost","app","stream","url""#),
            ("delStreamProxy", r#""key""#),
            ("getProxyInfo", r#""key""#),
            ("close_stream", stream),
            ("isMediaOnline", stream),
            ("getMediaInfo", stream),
            ("getMediaPlayerList", stream),
            ("kick_session", r#""id""#),
        ];
        for (name, list) in table {
            let msg = format!("Required parameter missed: {list}");
            let reply = node.call(name, &[("app", "live"), ("url", "")]);
            assert_eq!(reply, json!({"code": -300, "msg": msg}));
        }
    }

    #[test]
    fn secret_comes_from_query_form_json_or_header() {
        let node = FakeNode::new();
        let form = format!("secret={SECRET}");
        let json = json!({"secret": SECRET}).to_string();
        let header = format!("\r\nSecret: {SECRET}");
        let table = [
            (format!("?{form}"), String::new(), "", 0),
            (String::new(), header.clone(), "", 0),
            (String::new(), "\r\nContent-Type: application/json".to_owned(), &*json, 0),
            (
                String::new(),
                "\r\nContent-Type: application/x-www-form-urlencoded".to_owned(),
                &*form,
                0,
            ),
            ("?secret=wrong".to_owned(), header, "", -100),
            (String::new(), String::new(), &*form, -100),
        ];
        for (query, headers, body, code) in table {
            let head = format!("POST /index/api/version{query} HTTP/1.1{headers}");
            let reply = node.exchange(&head, body).finish().json();
            assert_eq!(reply["code"], code, "{head} {body}");
        }
    }

    #[test]
    fn nothing_is_acknowledged_that_a_crash_would_undo() {
        let node = FakeNode::new();
        node.set_persisted(false);
        let params = [
            ("schema", "rtmp"),
            ("vhost", "v"),
            ("app", "live"),
            ("stream", "a"),
            ("url", "rtmp://h/live/a"),
            ("key", "v/live/a"),
            ("async", "1"),
            ("force", "1"),
        ];
        for name in ["addStreamProxy", "close_stream", "close_streams", "delStreamProxy"] {
            let reply = node.call(name, &params);
            assert_eq!(reply, json!({"code": -400, "msg": NOT_KEPT}), "{name}");
            node.call("addStreamProxy", &params);
        }
        assert_eq!(node.call("getMediaList", &params)["code"], 0);
        // A failure may tell of the end of something that was kept.
        let before = node.synced();
        let params = [("key", "v/live/nosuch"), ("url", "rtmp://h/live/b")];
        assert_eq!(node.call("updateStreamProxy", &params)["code"], -500);
        assert_eq!(node.synced(), before + 1);
    }

    #[test]
    fn every_call_is_answered_when_a_shard_is_not() {
        let node = FakeNode::new();
        node.freeze(ShardId(0));
        node.freeze(ShardId(1));
        let params = [
            ("schema", "rtmp"),
            ("vhost", "v"),
            ("app", "live"),
            ("stream", "a"),
            ("url", "rtmp://h/live/a"),
            ("dst_url", "rtmp://h/live/a"),
            ("key", "v/live/a"),
            ("id", "1-0"),
            ("hook.enable", "1"),
        ];
        for route in ROUTES.iter().filter(|route| route.is_served()) {
            let mut params = params.to_vec();
            if route.name.contains("Pusher") {
                // Their keys have another form.
                params.retain(|(name, _)| *name != "key");
                params.push(("key", "rtmp/v/live/a/00112233445566778899aabbccddeeff"));
            }
            let reply = node.call(route.name, &params);
            let needs_no_shard = [
                "getApiList",
                "getServerConfig",
                "getThreadsLoad",
                "getWorkThreadsLoad",
                "probeStream",
                "reloadConfig",
                "version",
            ];
            if needs_no_shard.contains(&route.name) {
                assert_eq!(reply["code"], 0, "{}", route.name);
            } else {
                assert_eq!(reply["code"], -400, "{}", route.name);
                let msg = reply["msg"].as_str().unwrap();
                assert!(msg.contains("did not answer within"), "{msg}");
            }
        }
    }
}
