/**
 * Topics of a mormot_ws server, for browsers. docs/reference/topics-js.md describes this module,
 * docs/reference/topics-protocol.md its messages. It is a single file without a build step.
 * @typedef {Error & { code: string }} TopicsError code: of the server, "full", "offline", "closed"
 * @typedef {{ epoch: string, offset: number }} Position how far a topic has been read
 * @typedef {Position & { topic: string, data: any }} Publication
 * @typedef {Position & { repeated: boolean }} Published
 * @typedef {Position & { topic: string, recovered: boolean, missed: number, reason: string }}
 *     Recovery recovered false: publications before this position are lost; reason: "epoch" or
 *     "trimmed"
 * @typedef {{ topic: string, position: Position | null, unsubscribe: () => boolean }} Subscription
 * @typedef {{ onPublication: (publication: Publication) => void,
 *     onRecovered?: (recovery: Recovery) => void, onRefused?: (error: TopicsError) => void }} Calls
 * @typedef {PromiseWithResolvers<any> & { seq: number, topic: string, json: string, size: number }}
 *     Unacknowledged
 * @typedef {{ version: number, session: string, sequence: number, positions: { [topic: string]:
 *     [string, number] }, unacknowledged: [number, string, string][] }} State */

const FINAL = new Set([1003, 1007, 1009, 4001, 4002]); // another attempt would end the same way
const HELLO_TIMEOUT = 10_000; // milliseconds
const STABLE_AFTER = 5_000; // milliseconds online, after which the waits start from the shortest

/** The state of one connection. */
const newLink = () => ({ socket: /** @type {WebSocket | null} */ (null),
  silent: 0, sent: 0, held: false, // heartbeats; publications; the server wants them again later
  asked: /** @type {Map<string, number>} */ (new Map()), // how many `sub` are unanswered
  questions: /** @type {PromiseWithResolvers<any>[]} */ ([]) }); // unanswered `members`

/** A client: it connects at once, and again after each loss, until close() or "ended". Events:
 *  "online" {member}, "offline" {code, reason}, "waiting" {ms, code, reason} before each further
 *  attempt, "answered" {topic, json, error} for each publication, "ended" {code, reason}. */
export class Topics extends EventTarget {
  #url; #options; #bound; #session; #sequence; #positions; // of topics that are not subscribed
  #phase = "waiting"; // then "connecting", "online"; in the end "ended"
  #link = newLink();
  #limits = /** @type {{ [name: string]: number }} */ ({});
  #subscriptions = /** @type {Map<string, Subscription & Calls>} */ (new Map());
  #kept = /** @type {Unacknowledged[]} */ ([]); #bytes = 0; // of them
  #life = new AbortController(); // ends the listeners

  /** Connect.
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url relative to the page;
   *     a function is called before each attempt
   * @param {{ protocol?: string, state?: State | null, baseMs?: number, capMs?: number,
   *     maxUnacknowledged?: number, maxUnacknowledgedBytes?: number, heartbeatMs?: number }}
   *     [options] baseMs and capMs: the first and the highest limit of the random waits */
  constructor(url, { state, ...options } = {}) {
    super();
    this.#options = { protocol: "topics", baseMs: 100, capMs: 10_000 + Math.random() * 5_000,
      maxUnacknowledged: 1_000, maxUnacknowledgedBytes: 1 << 24, heartbeatMs: 20_000, ...options };
    const wrong = Object.entries(this.#options).find(
      ([name, value]) => name !== "protocol" && !(Number(value) > 0));
    if (wrong) throw new RangeError(`${wrong[0]} must be a number above 0, not ${wrong[1]}`);
    if (typeof url !== "function") address(url); // throws if each attempt would fail
    if (state && state.version !== 1) throw new TypeError("state must be a value of state()");
    this.#url = url;
    this.#bound = this.#options.baseMs;
    this.#session = state?.session ?? crypto.getRandomValues(new Uint32Array(5)).join("-");
    this.#sequence = state?.sequence ?? 0;
    this.#positions = new Map(Object.entries(state?.positions ?? {})
      .map(([topic, [epoch, offset]]) => [topic, { epoch, offset }]));
    // the event "answered" reports their results
    for (const each of state?.unacknowledged ?? []) this.#keep(...each).catch(() => {});
    globalThis.addEventListener?.("online", this.#wake, this.#life);
    globalThis.document?.addEventListener("visibilitychange", this.#wake, this.#life);
    this.#connect();
  }

  /** Whether there is a connection on which the server has answered hello. */
  get online() { return this.#phase === "online"; }
  /** The number of unanswered publications. */
  get unacknowledged() { return this.#kept.length; }

  /** Subscribe: *onPublication* gets each new publication, once and in order.
   * @param {string} topic @param {Calls["onPublication"]} onPublication
   * @param {Partial<Calls> & { since?: Position | null }} [options] since: start after this
   *     position, by default that of the restored state. onRecovered: called when the subscription
   *     starts, continues or loses publications. onRefused: called if the server refuses or ends it
   * @returns {Subscription} */
  subscribe(topic, onPublication, { since = this.#positions.get(topic), ...calls } = {}) {
    if (!isTopic(topic)) throw new TypeError("a topic must be a non-empty string");
    if (this.#subscriptions.has(topic)) throw new Error(`already subscribed to ${topic}`);
    const unsubscribe = () => {
      if (this.#subscriptions.get(topic) !== subscription) return false;
      this.#send({ type: "unsub", topic });
      return this.#subscriptions.delete(topic);
    };
    const subscription = { topic, position: since ?? null, unsubscribe, ...calls, onPublication };
    this.#positions.delete(topic);
    this.#subscriptions.set(topic, subscription);
    this.#ask(subscription);
    return subscription;
  }

  /** Publish a JSON value, now or as soon as there is a connection. The promise is fulfilled when
   *  it has been published, and rejected with a TopicsError if it cannot be published.
   *  @param {string} topic @param {any} data @returns {Promise<Published>} */
  publish(topic, data) {
    if (!isTopic(topic)) throw new TypeError("a topic must be a non-empty string");
    const { maxUnacknowledged: most, maxUnacknowledgedBytes: mostBytes } = this.#options;
    const json = JSON.stringify(data);
    if (json === undefined) throw new TypeError("data must be a JSON value");
    if (this.#phase === "ended") return Promise.reject(failure("closed"));
    const isFull = this.#kept.length >= most || this.#bytes + sizeOf(json) > mostBytes;
    if (this.#kept.length && isFull) return Promise.reject(failure("full"));
    const promise = this.#keep(++this.#sequence, topic, json);
    this.#pump();
    return promise;
  }

  /** Ask who is subscribed. @param {string} topic @returns {Promise<{ [member: string]: any }>} */
  members(topic) {
    if (!this.#send({ type: "members", topic })) return Promise.reject(failure("offline"));
    const question = Promise.withResolvers();
    this.#link.questions.push(question);
    return question.promise;
  }

  /** Return what another Topics needs to continue. Use it in only one place. @returns {State} */
  state() {
    const read = [...this.#subscriptions.values()].flatMap(
      ({ topic, position }) => position ? [/** @type {const} */ ([topic, position])] : []);
    const positions = Object.fromEntries([...this.#positions, ...read].map(
      ([topic, { epoch, offset }]) => [topic, /** @type {[string, number]} */ ([epoch, offset])]));
    return { version: 1, session: this.#session, sequence: this.#sequence, positions,
      unacknowledged: this.#kept.map(({ seq, topic, json }) => [seq, topic, json]) };
  }

  /** Make the next attempt to connect now. */
  reconnect() { if (this.#phase === "waiting") this.#connect(); }
  /** End for good. Unanswered publications are rejected with "closed". */
  close() { if (this.#phase !== "ended") this.#end(1000, "closed"); }

  /** Return *f* as a callback that does nothing if the connection has been replaced. */
  #ours = (/** @type {(it: any) => void} */ f, link = this.#link) =>
    (/** @type {any} */ it) => { if (link === this.#link) f(it); };

  async #connect() {
    const link = this.#leave("connecting");
    const failed = this.#ours((why) => this.online || this.#lost(1006, String(why)));
    setTimeout(failed, HELLO_TIMEOUT, "no answer");
    try {
      const url = typeof this.#url === "function" ? await this.#url() : this.#url;
      if (link !== this.#link) return;
      const socket = link.socket = new WebSocket(address(url), this.#options.protocol);
      socket.onopen = this.#ours(() => {
        this.#send({ type: "hello", v: 1, session: this.#session });
        this.#subscriptions.forEach((subscription) => this.#ask(subscription));
      });
      socket.onmessage = this.#ours(({ data }) => this.#receive(data));
      socket.onclose = this.#ours(({ code, reason }) => this.#lost(code, reason));
    } catch (error) { failed(error); }
  }

  #lost(/** @type {number} */ code, /** @type {string} */ reason) {
    if (FINAL.has(code)) return this.#end(code, reason);
    const wasOnline = this.online, ms = Math.random() * this.#bound;
    this.#bound = Math.min(this.#bound * 2, this.#options.capMs);
    this.#leave("waiting");
    setTimeout(this.#ours(() => this.#connect()), ms);
    if (wasOnline) this.#emit("offline", { code, reason });
    this.#emit("waiting", { ms, code, reason });
  }
  #end(/** @type {number} */ code, /** @type {string} */ reason) {
    this.#leave("ended");
    this.#life.abort();
    for (const { reject } of this.#kept) reject(failure("closed", reason));
    this.#emit("ended", { code, reason });
  }
  #leave(/** @type {string} */ phase) {
    const { socket, questions } = this.#link;
    this.#phase = phase;
    this.#link = newLink();
    socket?.close(1000);
    questions.forEach(({ reject }) => reject(failure("offline")));
    return this.#link;
  }

  #wake = () => {
    if (globalThis.document?.hidden) return;
    this.reconnect();
    if (this.#send({ type: "ping" })) this.#link.silent = 2; // the network may be another one now
  };
  #beat() {
    if (this.#link.silent > 1) return this.#lost(1006, "the server is silent");
    if (this.#link.silent++) this.#send({ type: "ping" });
    setTimeout(this.#ours(() => this.#beat()), this.#options.heartbeatMs);
  }
  #emit = (/** @type {string} */ type, /** @type {object} */ detail) =>
    this.dispatchEvent(new CustomEvent(type, { detail }));
  #send(/** @type {object} */ message, json = JSON.stringify(message)) {
    if (this.#link.socket?.readyState !== 1) return false;
    this.#link.socket.send(json);
    return true;
  }
  #ask(/** @type {Subscription} */ { topic, position }, { asked } = this.#link) {
    if (!this.#send({ type: "sub", topic, since: position ?? undefined })) return;
    asked.set(topic, (asked.get(topic) ?? 0) + 1);
  }

  #keep(/** @type {number} */ seq, /** @type {string} */ topic, /** @type {string} */ json) {
    const size = sizeOf(json), answer = Promise.withResolvers();
    this.#bytes += size;
    this.#kept.push({ seq, topic, json, size, ...answer });
    return answer.promise;
  }

  /** Send as many publications as may be in flight. */
  #pump(link = this.#link) {
    const most = this.#limits.window || Infinity, payload = this.#limits.payload || Infinity;
    while (this.online && !link.held && link.sent < Math.min(most, this.#kept.length)) {
      const next = this.#kept[link.sent], { seq, topic, json, size } = next;
      if (size > payload) {
        this.#settle(next, failure("too_large", `over ${payload} bytes`));
      } else {
        link.sent += 1;
        const name = JSON.stringify(topic);
        this.#send({}, `{"type":"pub","topic":${name},"seq":${seq},"data":${json}}`);
      }
    }
  }

  #settle(/** @type {Unacknowledged} */ kept, /** @type {Published | TopicsError} */ answer) {
    const index = this.#kept.indexOf(kept), { topic, json, size, resolve, reject } = kept;
    const error = answer instanceof Error ? answer : null;
    this.#kept.splice(index, 1);
    this.#bytes -= size;
    if (index < this.#link.sent) this.#link.sent -= 1;
    if (error) reject(error); else resolve(answer);
    this.#emit("answered", { topic, json, error });
  }

  #receive(/** @type {string} */ text) {
    let message;
    try { message = JSON.parse(text); } catch { /* it has no type, then */ }
    if (typeof message?.type !== "string") return this.#lost(1006, "not a server of topics");
    const { type, on, topic, epoch, offset, retry, data, missed = 0, reason = "" } = message;
    const link = this.#link, { asked, questions } = link, error = failure(message.code, reason);
    link.silent = 0;
    const isAnswer = type === "sub" || (type === "error" && on === "sub");
    const left = (asked.get(topic) ?? 1) - 1;
    if (isAnswer && left > 0) asked.set(topic, left);
    else if (isAnswer) asked.delete(topic); // a page may use any number of topics in its life
    // before the answer to the last `sub`, messages belong to an earlier subscription
    const ours = asked.get(topic) ? undefined : this.#subscriptions.get(topic);
    if (type === "hello") {
      this.#phase = "online";
      this.#limits = message.limits ?? {};
      setTimeout(this.#ours(() => { this.#bound = this.#options.baseMs; }), STABLE_AFTER);
      this.#beat();
      this.#pump();
      this.#emit("online", { member: message.member });
    } else if (type === "nack" && retry != null) {
      link.held = true;
      setTimeout(this.#ours(() => {
        Object.assign(link, { held: false, sent: 0 });
        this.#send({ type: "again" });
        this.#pump();
      }), retry);
    } else if (type === "ack" || type === "nack") {
      const answered = this.#kept.find(({ seq }) => seq === message.seq);
      const published = { epoch, offset, repeated: message.repeated === true };
      if (answered) this.#settle(answered, type === "ack" ? published : error);
      this.#pump();
    } else if (type === "members") {
      questions.shift()?.resolve(message.members);
    } else if (type === "error" && on === "members") {
      questions.shift()?.reject(error);
    } else if (ours && (type === "sub" || type === "lost")) {
      const recovered = type === "sub" && message.recovered !== false;
      ours.position = { epoch, offset };
      const recovery = { topic, epoch, offset, recovered, missed, reason };
      queueMicrotask(() => ours.onRecovered?.(recovery)); // where an exception does not stop us
    } else if (ours?.position && type === "pub") {
      const { position } = ours, now = epoch ?? position.epoch;
      const isOld = offset <= position.offset && now === position.epoch;
      if (offset !== position.offset + 1) return isOld || this.#ask(ours);
      ours.position = { epoch: now, offset };
      queueMicrotask(() => ours.onPublication({ topic, epoch: now, offset, data }));
    } else if (ours && type === "paused") {
      this.#ask(ours);
    } else if (ours && isAnswer && retry != null) {
      const again = () => this.#subscriptions.get(topic) === ours && !asked.get(topic);
      setTimeout(this.#ours(() => again() && this.#ask(ours)), retry);
    } else if (ours && (isAnswer || (type === "unsub" && message.code))) {
      this.#subscriptions.delete(topic);
      queueMicrotask(() => ours.onRefused?.(error));
    }
  }
}

const address = (/** @type {string | URL} */ url) => {
  const { protocol, host, pathname, search } = new URL(url, globalThis.location?.href);
  return `${protocol.replace("http", "ws")}//${host}${pathname}${search}`;
};
const isTopic = (/** @type {unknown} */ topic) => typeof topic === "string" && topic;
const sizeOf = (/** @type {string} */ text) => new TextEncoder().encode(text).length;
const failure = (/** @type {string} */ code, reason = "") =>
  Object.assign(new Error(reason || code), { name: "TopicsError", code });
