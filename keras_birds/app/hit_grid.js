// Hits as a grid with one player and keys. A mark shows, and the next clip plays, without waiting for the server, which
// is told of all marks since the page was opened: of two that follow each other quickly neither is lost.

const KEYS = { y: "right", n: "wrong", u: "unsure" };
const WORDS = { right: "✓ yes", wrong: "✗ no", unsure: "? unsure" };
const TYPING = "input, textarea, select, [contenteditable=true], [role=slider], [role=combobox]";

function make(tag, name, parent, text = "") {
  const found = document.createElement(tag);
  found.className = name;
  found.textContent = text;
  parent.append(found);
  return found;
}

class Grid {
  constructor(parent) {
    this.id = `${Date.now()}-${Math.random()}`;
    this.log = [];
    this.root = make("div", "kb-find", parent);
    this.root.tabIndex = -1;
    const bar = make("div", "kb-bar", this.root);
    this.player = make("audio", "kb-player", bar);
    this.player.controls = true;
    this.button(bar, "✓ Yes", "y", () => this.mark("right"));
    this.button(bar, "✗ No", "n", () => this.mark("wrong"));
    this.button(bar, "? Unsure", "u", () => this.mark("unsure"));
    this.button(bar, "↶ Undo", "z", () => this.undo());
    this.button(bar, "◀", "←", () => this.go(this.at - 1));
    this.button(bar, "▶", "→", () => this.go(this.at + 1));
    this.place = make("div", "kb-place", this.root);
    this.cards = make("div", "kb-cards", this.root);
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
  }

  button(bar, text, key, act) {
    const found = make("button", "kb-button", bar, text);
    make("kbd", "", found, key);
    found.addEventListener("click", act);
  }

  close() {
    document.removeEventListener("keydown", this.onKey);
    this.root.remove();
  }

  show(data) {
    const isNew = data.page !== this.page;
    this.hits = data.hits;
    this.label = data.label;
    const handled = data.handled.id === this.id ? data.handled.count : 0;
    this.mine = Object.fromEntries(data.hits.map((x) => [x.row, x.mine]));
    for (const [row, verdict, label] of this.log.slice(handled)) {
      if (label === this.label && row in this.mine) this.mine[row] = verdict;
    }
    if (isNew) {
      this.page = data.page;
      this.undone = [];
      this.at = Math.max(0, this.hits.findIndex((x) => !this.mine[x.row]));
    }
    this.build();
    this.draw();
    if (!isNew) return;
    this.load(false);
    this.root.focus({ preventScroll: true });
    this.root.scrollIntoView({ behavior: "smooth" });
  }

  build() {
    this.cards.replaceChildren();
    this.tiles = this.hits.map((hit, k) => {
      const tile = make("div", "kb-hit", this.cards);
      if (hit.picture) {
        make("img", "", tile).src = hit.picture;
      } else {
        make("div", "kb-gone", tile, hit.problem);
      }
      const line = make("div", "kb-line", tile);
      make("span", "", line, hit.score);
      const said = make("span", "kb-said", line);
      make("div", "kb-name", tile, hit.name);
      make("div", "kb-others", tile, hit.others);
      tile.addEventListener("click", () => this.go(k));
      return { tile, said };
    });
  }

  draw() {
    this.tiles.forEach(({ tile, said }, k) => {
      const verdict = this.mine[this.hits[k].row];
      tile.className = `kb-hit ${verdict ? `kb-${verdict}` : ""} ${k === this.at ? "kb-focus" : ""}`;
      said.textContent = WORDS[verdict] || "";
    });
    const hit = this.hits[this.at];
    const left = this.hits.filter((x) => !this.mine[x.row]).length;
    const more = left ? `${left} of ${this.hits.length} to mark` : "all marked: t for the next page";
    this.place.textContent = hit ? `${hit.place}${hit.problem ? ` · ${hit.problem}` : ""} · ${more}` : "";
  }

  load(isHeard) {
    const hit = this.hits[this.at];
    this.player.pause();
    if (!hit || !hit.sound) {
      this.player.removeAttribute("src");
      return;
    }
    this.player.src = hit.sound;
    if (isHeard) this.player.play().catch(() => {});
  }

  go(k) {
    if (!(k >= 0 && k < this.hits.length)) return;
    this.at = k;
    this.draw();
    this.tiles[k].tile.scrollIntoView({ block: "nearest" });
    this.load(true);
  }

  say(row, verdict) {
    this.mine[row] = verdict;
    this.log.push([row, verdict, this.label]);
    this.tell({ id: this.id, log: this.log });
  }

  mark(verdict) {
    const hit = this.hits[this.at];
    if (!hit) return;
    this.undone.push([this.at, this.mine[hit.row] || ""]);
    this.say(hit.row, verdict);
    const onward = this.hits.findIndex((x, k) => k > this.at && !this.mine[x.row]);
    const first = this.hits.findIndex((x) => !this.mine[x.row]);
    if (onward < 0 && first < 0) {
      this.draw();
    } else {
      this.go(onward < 0 ? first : onward);
    }
  }

  undo() {
    const last = this.undone.pop();
    if (!last) return;
    this.say(this.hits[last[0]].row, last[1]);
    this.go(last[0]);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPING)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in KEYS) this.mark(KEYS[key]);
    else if (key === "z") this.undo();
    else if (key === "ArrowRight" || key === " ") this.go(this.at + 1);
    else if (key === "ArrowLeft") this.go(this.at - 1);
    else return;
    event.preventDefault();
  }
}

export default function ({ data, parentElement, setStateValue }) {
  parentElement.kbGrid ??= new Grid(parentElement);
  const grid = parentElement.kbGrid;
  grid.tell = (said) => setStateValue("said", said);
  grid.show(data);
  return () => {
    grid.close();
    delete parentElement.kbGrid;
  };
}
