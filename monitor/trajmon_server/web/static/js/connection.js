// Whether the server answers. A page that has lost it says so, keeps what it shows, and asks until it is back.
import { $, el, fill } from "./dom.js";

const ASK_EVERY_MS = 1500;
let lostSince = null;
const listeners = new Set();

/** Call `action` whenever the server has come back. */
export function onReturn(action) {
  listeners.add(action);
}

export const isLost = () => lostSince !== null;

/** The server did not answer, or is not ready: say so, and ask until it is. */
export function lost(why = "") {
  const since = lostSince ?? new Date();
  const text = why || "The server does not answer.";
  fill(
    $("banner"),
    el("strong", {}, text),
    ` What is shown is as of ${since.toLocaleTimeString()}; it goes on by itself when the server is back.`,
  );
  $("banner").hidden = false;
  document.body.dataset.connection = "lost";
  if (lostSince === null) {
    lostSince = since;
    setTimeout(ask, ASK_EVERY_MS);
  }
}

/** The session has ended: only a person can help. */
export function refused() {
  fill(
    $("banner"),
    el("strong", {}, "This browser is not signed in any more."),
    " Open this address once with ?token=TOKEN behind it.",
  );
  $("banner").hidden = false;
  document.body.dataset.connection = "refused";
}

async function ask() {
  try {
    const answer = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (answer.ok) {
      lostSince = null;
      $("banner").hidden = true;
      document.body.dataset.connection = "";
      for (const action of listeners) action();
      return;
    }
  } catch {
    // Still away.
  }
  setTimeout(ask, ASK_EVERY_MS);
}
