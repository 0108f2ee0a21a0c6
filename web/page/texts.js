// @ts-check
/**
 * The page's words, in English and Chinese.
 *
 * Owns: every text that a person reads, and which language is shown. Must not: touch what came from the network.
 */

const ENGLISH = {
  skip: "Skip to the messages",
  connection: "Connection",
  url: "WebSocket URL",
  room: "Room ID",
  user: "User ID",
  name: "User name",
  balance: "Let the cluster choose the node",
  connect: "Connect",
  changeRoom: "Join",
  retryNow: "Try now",
  leave: "Leave",
  disconnect: "Disconnect",
  drop: "Simulate loss",
  figures: "Figures",
  received: "Received",
  lost: "Lost",
  duplicate: "Duplicate",
  reconnects: "Reconnects",
  roundtrip: "Round trip",
  members: "Members",
  membersNone: "Nobody has joined yet.",
  membersAway: "Shown while connected.",
  membersAsked: "The node is being asked.",
  membersSilent: "This node does not list members.",
  membersUnavailable: "The members cannot be read now.",
  membersMore: "There are more than these {count}.",
  you: "you",
  messages: "Messages",
  messagesNone: "Nothing has arrived yet. What is pushed to the room, to you or to everyone appears here.",
  messagesFiltered: "No message of these types.",
  filter: "Types that are shown",
  clear: "Clear",
  frames: "Raw frames",
  pause: "Pause",
  resume: "Go on",
  copy: "Copy",
  copied: "Copied.",
  notCopied: "The browser did not let it be copied.",
  toRoom: "to room {room}",
  toYou: "to you",
  toEveryone: "to everyone",
  again: "duplicate",
  metadata: "Metadata",
  download: "Download",
  bytes: "{size}, {kind}",
  unknownKind: "of a kind that is not known",
  unplayable: "which this browser cannot play",
  type_text: "Text",
  type_audio: "Audio",
  type_video: "Video",
  type_translation: "Translation",
  type_system: "System",
  state_idle: "Not connected",
  state_left: "Left the room",
  state_connecting: "Connecting",
  state_joining: "Joining {room}",
  state_open: "Connected",
  state_waiting: "Reconnecting",
  state_offline: "Offline",
  state_closed: "Disconnected",
  inSeconds: "in {seconds} s",
  nodeAt: "at {host}",
  roomFull: "The room is full.",
  refused: "Not connected: {reason}",
  notJoined: "Not joined: {reason}",
  retrying: "Trying again: {reason}",
  badUrl: "This is no WebSocket URL: it looks like ws://localhost:8080/ws",
  theme_auto: "Theme: system",
  theme_light: "Theme: light",
  theme_dark: "Theme: dark",
  otherLanguage: "中文",
};

/** @typedef {keyof typeof ENGLISH} TextKey */

/** @type {Record<TextKey, string>} */
const CHINESE = {
  skip: "跳到消息",
  connection: "连接",
  url: "WebSocket URL",
  room: "房间 ID",
  user: "用户 ID",
  name: "用户名",
  balance: "由集群选择节点",
  connect: "连接",
  changeRoom: "加入",
  retryNow: "立即重试",
  leave: "离开房间",
  disconnect: "断开连接",
  drop: "模拟断线",
  figures: "统计",
  received: "已接收",
  lost: "丢失",
  duplicate: "重复",
  reconnects: "重连次数",
  roundtrip: "往返时间",
  members: "成员",
  membersNone: "还没有人加入。",
  membersAway: "连接后显示。",
  membersAsked: "正在询问节点。",
  membersSilent: "该节点不提供成员列表。",
  membersUnavailable: "暂时无法读取成员。",
  membersMore: "仅显示前 {count} 人。",
  you: "你",
  messages: "消息",
  messagesNone: "还没有消息。推送到房间、推送给你或广播的内容会显示在这里。",
  messagesFiltered: "没有所选类型的消息。",
  filter: "显示的类型",
  clear: "清空",
  frames: "原始帧",
  pause: "暂停",
  resume: "继续",
  copy: "复制",
  copied: "已复制。",
  notCopied: "浏览器不允许复制。",
  toRoom: "房间 {room}",
  toYou: "发给你",
  toEveryone: "发给所有人",
  again: "重复",
  metadata: "元数据",
  download: "下载",
  bytes: "{size}，{kind}",
  unknownKind: "未知格式",
  unplayable: "此浏览器无法播放",
  type_text: "文本",
  type_audio: "音频",
  type_video: "视频",
  type_translation: "翻译",
  type_system: "系统",
  state_idle: "未连接",
  state_left: "已离开房间",
  state_connecting: "正在连接",
  state_joining: "正在加入 {room}",
  state_open: "已连接",
  state_waiting: "正在重连",
  state_offline: "网络已断开",
  state_closed: "已断开",
  inSeconds: "{seconds} 秒后",
  nodeAt: "{host}",
  roomFull: "房间已满。",
  refused: "未连接：{reason}",
  notJoined: "未加入：{reason}",
  retrying: "正在重试：{reason}",
  badUrl: "这不是 WebSocket URL，应类似 ws://localhost:8080/ws",
  theme_auto: "主题：跟随系统",
  theme_light: "主题：浅色",
  theme_dark: "主题：深色",
  otherLanguage: "English",
};

/** What the client itself gives as a reason. A node's own words are shown as they came. */
export const CHINESE_REASONS = new Map([
  ["the connection was lost", "连接已断开"],
  ["the node does not answer", "节点没有响应"],
  ["nothing came after a ping", "心跳没有得到回应"],
  ["no answer to the handshake", "握手没有得到回应"],
  ["dropped by hand", "手动断开"],
  ["no address is known yet", "尚无可用的地址"],
  ["this page came over https, and no address begins with wss://", "此页面通过 https 打开，但没有以 wss:// 开头的地址"],
]);

/** @typedef {"en" | "zh"} Language */

/** @type {Language} */
let language = "en";

/** @type {Set<() => void>} */
const listeners = new Set();

/** The language that is shown. */
export function currentLanguage() {
  return language;
}

/**
 * The language of a tag such as `zh-Hans-CN`.
 * @param {string} tag
 * @returns {Language}
 */
export function languageOf(tag) {
  return tag.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/**
 * Shows another language, in the document's own parts and in everything that listens.
 * @param {Language} next
 */
export function setLanguage(next) {
  language = next;
  document.documentElement.lang = next === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(/** @type {TextKey} */ (element.getAttribute("data-text")));
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(/** @type {TextKey} */ (element.getAttribute("data-label"))));
  }
  for (const listener of listeners) listener();
}

/**
 * Calls back whenever another language is shown.
 * @param {() => void} listener
 */
export function onLanguage(listener) {
  listeners.add(listener);
}

/**
 * A text in the language that is shown.
 * @param {TextKey} key
 * @param {Record<string, string | number>} [values] for the names in braces
 */
export function text(key, values = {}) {
  const words = language === "zh" ? CHINESE[key] : ENGLISH[key];
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/**
 * A reason in the language that is shown, as far as its words are known.
 * @param {string} reason
 */
export function reasonText(reason) {
  return (language === "zh" && CHINESE_REASONS.get(reason)) || reason;
}

/**
 * The name of a language in the language that is shown; the tag itself where it is not known.
 * @param {string} tag BCP 47
 */
export function languageName(tag) {
  try {
    return new Intl.DisplayNames([document.documentElement.lang], { type: "language" }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}
