"use strict";

// The finder: facts of `mambaport doctor` -> the folder of the index with wheels for that machine.

function factsOf(text) {
  const facts = { arch: null, glibc: null, sm: [], l4t: null, pi: /raspberry pi/i.test(text) };
  const arch = /\b(aarch64|arm64|x86_64|armv7l|armv6l)\b/.exec(text);
  if (arch) facts.arch = arch[1] === "arm64" ? "aarch64" : arch[1];
  const glibc = /glibc (\d+)\.(\d+)/.exec(text);
  if (glibc) facts.glibc = [Number(glibc[1]), Number(glibc[2])];
  // doctor -p PROFILE also names the profile's SMs, which are not this machine's.
  const own = text.replace(/the profile is for (sm_\d+(, )?)+/g, "");
  facts.sm = [...own.matchAll(/\bsm_(\d{2,3})\b/g)].map((found) => found[1]);
  const l4t = /L4T (\d+)/.exec(text);
  if (l4t) facts.l4t = Number(l4t[1]);
  return facts;
}

// Every folder that fits, the best first: for this Jetson, for this GPU, for this board, for any CPU.
function fitting(facts, places) {
  const fits = places.filter((place) => {
    const [major, minor] = place.glibc.split(".").map(Number);
    if (place.arch !== facts.arch) return false;
    if (facts.glibc && (facts.glibc[0] < major || (facts.glibc[0] === major && facts.glibc[1] < minor))) return false;
    if (place.l4t.length && !place.l4t.includes(facts.l4t)) return false;
    if (place.sm.length) {
      const unnamed = place.l4t.length > 0 && !facts.sm.length; // an old doctor names no SM
      return unnamed || place.sm.some((sm) => facts.sm.includes(sm));
    }
    return true;
  });
  const rank = (place) =>
    (place.l4t.length ? 8 : 0) + (place.sm.length ? 4 : 0) + (facts.pi && /raspberry pi/i.test(place.devices) ? 2 : 0);
  return fits.sort((one, other) => rank(other) - rank(one));
}

function verdict(text, places) {
  const facts = factsOf(text);
  if (!facts.arch) return { sentence: "This text names no architecture: paste all of what mambaport doctor prints.", folders: [] };
  if (facts.arch.startsWith("armv")) {
    return { sentence: "A 32-bit system cannot use these wheels: install the 64-bit system first.", folders: [] };
  }
  const found = fitting(facts, places);
  if (!found.length) return { sentence: `This index has no wheels for this machine (${facts.arch}).`, folders: [] };
  const [best, ...others] = found.map((place) => place.folder);
  return { sentence: `For this machine (torch ${found[0].torch}): `, folders: [best, ...others] };
}

function show(answer, result) {
  answer.textContent = result.sentence;
  result.folders.forEach((folder, number) => {
    if (number) answer.append(number === 1 ? "; it can also run " : ", ");
    const link = document.createElement("a");
    link.href = `${encodeURIComponent(folder)}/index.html`;
    link.textContent = folder;
    answer.append(link);
  });
}

function startFinder() {
  const input = document.getElementById("doctor");
  const answer = document.getElementById("answer");
  if (!input || !answer) return;
  const places = JSON.parse(document.getElementById("places").textContent);
  const update = () => (input.value.trim() ? show(answer, verdict(input.value, places)) : (answer.textContent = "Nothing pasted yet."));
  input.addEventListener("input", update);
  const given = new URLSearchParams(location.hash.slice(1)).get("doctor");
  if (given) input.value = given;
  update();
}

// Install lines: the address of this page in place of the example, and a button to copy.

function startLines() {
  const root = new URL(document.body.dataset.top || "./", location.href).href.replace(/\/$/, "");
  document.querySelectorAll("[data-address]").forEach((line) => {
    if (/^https?:/.test(root)) line.textContent = line.textContent.replaceAll("https://wheels.example", root);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(line.textContent);
      button.textContent = "Copied";
    });
    if (navigator.clipboard) line.closest(".copy").append(button);
  });
}

if (typeof document === "undefined") {
  module.exports = { factsOf, fitting, verdict };
} else {
  startFinder();
  startLines();
}
