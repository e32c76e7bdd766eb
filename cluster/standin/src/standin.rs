//! The server, as a test holds it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;

use kube::Config;
use kube::config::AuthInfo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::faults::{Fault, Pending, Request, When};
use crate::proxy::Proxies;
use crate::refusal::Refusal;
use crate::resources::Resource;
use crate::server::{self, Shared, State};
use crate::store::{Key, Store};
use crate::write::Write;

/// An API server in a thread of its own. It ends with this value.
#[derive(Debug)]
pub struct Standin {
    shared: Arc<Shared>,
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    /// Stop listening, and end all connections.
    Down(std_mpsc::Sender<()>),
    /// Listen again, at the same address.
    Up(std_mpsc::Sender<io::Result<()>>),
}

impl Standin {
    /// Starts a server on a port of the loopback device. Everybody may do everything.
    ///
    /// # Errors
    ///
    /// No port, no thread.
    pub fn start() -> io::Result<Self> {
        Self::with(false)
    }

    /// Starts a server that reads roles and bindings. The user `admin` may do everything.
    ///
    /// # Errors
    ///
    /// As of [`Standin::start`].
    pub fn with_roles() -> io::Result<Self> {
        Self::with(true)
    }

    fn with(rbac: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Without the runtime: the caller may be in one of its own.
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared::new(rbac));
        let (orders, received) = mpsc::unbounded_channel();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("standin".to_owned())
                .spawn(move || runtime.block_on(listen(shared, listener, address, received)))?
        };
        let server = Self {
            shared,
            address,
            orders,
            thread: Some(thread),
        };
        for name in ["default", "kube-system"] {
            server.namespace(name).map_err(io::Error::other)?;
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For a client of the user `admin`.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config_of("admin")
    }

    /// For a client of a user. Service accounts are `system:serviceaccount:NAMESPACE:NAME`.
    #[must_use]
    pub fn config_of(&self, user: &str) -> Config {
        // It is an address and a port: there is nothing in it that is no URI.
        let mut config = Config::new(self.url().parse().unwrap_or_default());
        config.auth_info = AuthInfo {
            token: Some(user.to_owned().into()),
            ..AuthInfo::default()
        };
        config
    }

    /// A kubeconfig file for a user, as text.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "standin",
            "clusters": [{ "name": "standin", "cluster": { "server": self.url() } }],
            "users": [{ "name": user, "user": { "token": user } }],
            "contexts": [{ "name": "standin", "context": { "cluster": "standin", "user": user } }],
        })
        .to_string()
    }

    fn change<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let done = act(&mut self.shared.state().store);
        self.shared.tell();
        done
    }

    /// Makes a namespace, unless it is there.
    ///
    /// # Errors
    ///
    /// Its name is none.
    pub fn namespace(&self, name: &str) -> Result<(), Refusal> {
        let object =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        match self.create(&object) {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.reason == "AlreadyExists" => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    fn create(&self, object: &Value) -> Result<Value, Refusal> {
        let now = crate::api::now();
        self.change(|store| {
            let (resource, namespace, name) = names(store, object)?;
            let write = Write {
                resource: &resource,
                namespace: &namespace,
                name: &name,
                subresource: "",
                manager: "test",
                force: false,
                dry_run: false,
                strict: true,
                now: &now,
            };
            let written = write.create(store, object.clone())?;
            Ok((*written.object).clone())
        })
    }

    /// Puts an object there as it is, its status included, with its namespace where that is missing: what
    /// somebody else wrote. It is new, or takes the place of the one that is there.
    ///
    /// # Errors
    ///
    /// Its kind is unknown, its name is none, its schema refuses it.
    pub fn seed(&self, object: &impl Serialize) -> Result<Value, Refusal> {
        let object = serde_json::to_value(object)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let (resource, namespace, name) = names(&self.shared.state().store, &object)?;
        if resource.namespaced {
            self.namespace(&namespace)?;
        }
        let key = Key::new(&resource, &namespace, &name);
        let there = self.shared.state().store.get(&key).cloned();
        let now = crate::api::now();
        let of = |subresource| Write {
            resource: &resource,
            namespace: &namespace,
            name: &name,
            subresource,
            manager: "test",
            force: true,
            dry_run: false,
            strict: true,
            now: &now,
        };
        let mut written = match there {
            None => self.create(&object)?,
            Some(there) => self.change(|store| {
                let mut object = object.clone();
                object["metadata"]["resourceVersion"] =
                    there["metadata"]["resourceVersion"].clone();
                let written = of("").update(store, object)?;
                Ok((*written.object).clone())
            })?,
        };
        if let Some(status) = object.get("status").filter(|_| resource.status) {
            written = self.change(|store| {
                let written = of("status").patch(store, |object| {
                    object["status"] = status.clone();
                    Ok(())
                })?;
                Ok((*written.object).clone())
            })?;
        }
        Ok(written)
    }

    /// An object. The kind is its plural, with the group: `pods`, `recordings.tapedeck.dev`.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.state();
        let resource = of_kind(&state.store, kind)?;
        let key = Key::new(resource, namespace, name);
        state.store.get(&key).map(|object| (**object).clone())
    }

    /// All objects of a kind, in all namespaces.
    #[must_use]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let state = self.shared.state();
        let Some(resource) = of_kind(&state.store, kind) else {
            return Vec::new();
        };
        state
            .store
            .list(resource, None, None)
            .map(|(_, object)| (**object).clone())
            .collect()
    }

    /// Deletes an object; with finalizers it stays, marked.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let now = crate::api::now();
        self.change(|store| {
            let resource = of_kind(store, kind)
                .cloned()
                .ok_or_else(Refusal::no_such_path)?;
            let write = Write {
                resource: &resource,
                namespace,
                name,
                subresource: "",
                manager: "test",
                force: true,
                dry_run: false,
                strict: false,
                now: &now,
            };
            write.delete(store, &Value::Null).map(|_| ())
        })
    }

    /// What was asked so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// How often this was asked so far: a verb, and a resource with its sub-resource: `recordings/status`.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let state = self.shared.state();
        state
            .requests
            .iter()
            .filter(|request| {
                request.verb == verb
                    && request.resource == resource
                    && request.subresource == subresource
            })
            .count()
    }

    /// Begins to count anew.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }

    /// The next `times` requests of this kind meet a fault.
    pub fn fault(&self, when: When, fault: Fault, times: usize) {
        if times > 0 {
            self.shared.state().faults.push(Pending {
                when,
                fault,
                left: times,
            });
        }
    }

    /// Nothing goes wrong any more.
    pub fn no_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Ends all connections; new ones are taken.
    pub fn cut(&self) {
        self.shared
            .cut
            .send_modify(|cut| *cut = cut.wrapping_add(1));
    }

    /// Forgets all changes, so that watches and pages of lists that began before are expired. Those
    /// that run go on.
    pub fn compact(&self) {
        self.change(Store::compact);
    }

    /// Sends a bookmark to all watches that take them.
    pub fn bookmark(&self) {
        self.shared
            .news
            .send_modify(|news| news.bookmarks = news.bookmarks.wrapping_add(1));
    }

    /// An outage: connections end, and new ones are refused.
    ///
    /// # Errors
    ///
    /// The server's thread is gone.
    pub fn down(&self) -> io::Result<()> {
        let (done, wait) = std_mpsc::channel();
        self.order(Order::Down(done))?;
        wait.recv().map_err(io::Error::other)
    }

    /// The end of an outage: it listens again at the same address.
    ///
    /// # Errors
    ///
    /// Somebody else has the port by now.
    pub fn up(&self) -> io::Result<()> {
        let (done, wait) = std_mpsc::channel();
        self.order(Order::Up(done))?;
        wait.recv().map_err(io::Error::other)?
    }

    fn order(&self, order: Order) -> io::Result<()> {
        self.orders
            .send(order)
            .map_err(|_| io::Error::other("the server has ended"))
    }

    fn proxies(&self, act: impl FnOnce(&mut Proxies)) {
        let mut state = self.shared.state();
        let State { proxies, .. } = &mut *state;
        act(proxies);
    }

    /// The service proxy leads to this address; the port is by name or number: `tapedeck-controller:https`. As
    /// with the real one, it speaks TLS there if the request says `https:` before the name.
    pub fn serve(&self, namespace: &str, service_and_port: &str, address: SocketAddr) {
        self.lead(namespace, service_and_port, (address, false));
    }

    /// The same, but what listens there speaks no TLS, whatever the request says: for tests of those who ask.
    pub fn serve_plainly(&self, namespace: &str, service_and_port: &str, address: SocketAddr) {
        self.lead(namespace, service_and_port, (address, true));
    }

    fn lead(&self, namespace: &str, service_and_port: &str, to: (SocketAddr, bool)) {
        let key = (namespace.to_owned(), service_and_port.to_owned());
        self.proxies(|proxies| {
            proxies.services.insert(key, to);
        });
    }

    /// What the log of a container says.
    pub fn log(&self, namespace: &str, pod: &str, container: &str, text: &str) {
        let key = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        self.proxies(|proxies| {
            proxies.logs.insert(key, text.to_owned());
        });
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        // Without anybody who could give orders, the server ends.
        let (closed, _) = mpsc::unbounded_channel();
        self.orders = closed;
        if let Some(thread) = self.thread.take() {
            // Its panic was printed; a second one here would hide the first.
            drop(thread.join());
        }
    }
}

fn of_kind<'a>(store: &'a Store, kind: &str) -> Option<&'a Resource> {
    let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
    store
        .resources
        .iter()
        .find(|resource| *resource.plural == *plural && *resource.group == *group)
}

fn names(store: &Store, object: &Value) -> Result<(Resource, String, String), Refusal> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let resource = store.of_kind(&version, &kind).cloned().ok_or_else(|| {
        Refusal::bad_request(format!(
            "no matches for kind {kind:?} in version {version:?}"
        ))
    })?;
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => namespace.to_owned(),
        None if resource.namespaced => "default".to_owned(),
        None => String::new(),
    };
    Ok((resource, namespace, text(&object["metadata"]["name"])))
}

async fn listen(
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut listener = Some(listener);
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                if let Ok((stream, _)) = accepted {
                    // Small answers, one by one: without this each waits for an acknowledgement.
                    drop(stream.set_nodelay(true));
                    tokio::spawn(server::connection(Arc::clone(&shared), stream));
                }
            }
            order = orders.recv() => match order {
                None => return,
                Some(Order::Down(done)) => {
                    listener = None;
                    shared.cut.send_modify(|cut| *cut = cut.wrapping_add(1));
                    // Until each has seen it.
                    tokio::task::yield_now().await;
                    done.send(()).unwrap_or_default();
                }
                Some(Order::Up(done)) => {
                    let bound = TcpListener::bind(address).await;
                    let told = bound.map(|bound| listener = Some(bound));
                    done.send(told).unwrap_or_default();
                }
            }
        }
    }
}
