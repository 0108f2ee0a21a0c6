// @ts-check
/**
 * Who is in the room.
 *
 * Owns: when the node is asked, and the list. Must not: ask while nobody looks.
 */

import { byId, make } from "./dom.js";
import { onLanguage, text } from "./texts.js";

/** @typedef {import("../ringcast-client.js").RingcastClient} RingcastClient */
/** @typedef {import("../client/wire.js").MembersDetail} MembersDetail */

/** How often the node is asked, in milliseconds; a fifth sooner or later, so that pages do not ask together. */
const ASK_EVERY_MS = 5_000;

/** So many questions without an answer, and the node is taken for one that does not know them. */
const MAX_UNANSWERED = 3;

export class MemberList {
  #list = byId("members", HTMLUListElement);
  #note = byId("members-note", HTMLParagraphElement);
  #total = byId("members-total", HTMLSpanElement);
  /** @type {RingcastClient | null} */
  #client = null;
  /** @type {MembersDetail | null} */
  #detail = null;
  #self = "";
  #timer = 0;
  #unanswered = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#ask());
    onLanguage(() => this.#render());
    this.#render();
  }

  /**
   * The client is in a room.
   * @param {RingcastClient} client
   * @param {string} self the user's own id
   */
  begin(client, self) {
    this.#client = client;
    this.#self = self;
    this.#unanswered = 0;
    // Who is in the former room says nothing of this one.
    if (this.#detail?.room !== client.room) this.#detail = null;
    this.#ask();
  }

  /** The client is in no room. */
  end() {
    clearTimeout(this.#timer);
    this.#client = null;
    this.#detail = null;
    this.#render();
  }

  /** @param {MembersDetail} detail */
  take(detail) {
    if (!this.#client || detail.room !== this.#client.room) return;
    this.#unanswered = 0;
    // A list that could not be read now does not make the last one wrong.
    if (!detail.error || !this.#detail) this.#detail = detail;
    this.#render();
  }

  #ask() {
    clearTimeout(this.#timer);
    if (!this.#client || document.hidden) return;
    if (this.#unanswered <= MAX_UNANSWERED && this.#client.requestMembers()) this.#unanswered += 1;
    this.#timer = setTimeout(() => this.#ask(), ASK_EVERY_MS * (0.8 + Math.random() * 0.4));
    this.#render();
  }

  #render() {
    const { members = [], total = 0, more = false, error = "" } = this.#detail ?? {};
    this.#list.replaceChildren(...members.map((member) => this.#line(member.userId, member.userName)));
    this.#total.textContent = this.#detail && !error ? `${total}${more ? "+" : ""}` : "";
    this.#note.textContent = this.#noteText(members.length, more, error);
  }

  /**
   * @param {number} listed
   * @param {boolean} more
   * @param {string} error
   */
  #noteText(listed, more, error) {
    if (!this.#client) return text("membersAway");
    if (error) return text("membersUnavailable");
    if (!this.#detail) return this.#unanswered > MAX_UNANSWERED ? text("membersSilent") : text("membersAsked");
    if (more) return text("membersMore", { count: listed });
    return listed === 0 ? text("membersNone") : "";
  }

  /**
   * @param {string} userId
   * @param {string} userName
   */
  #line(userId, userName) {
    const name = userName || userId;
    const face = make("span", "face", [...name][0]?.toUpperCase() ?? "");
    face.setAttribute("aria-hidden", "true");
    const who = make("span", "who", name, " ");
    const isSelf = userId === this.#self;
    const more = [userName ? userId : "", isSelf ? text("you") : ""].filter(Boolean).join(" · ");
    if (more) who.append(make("small", "", more));
    return make("li", "", face, who);
  }
}
