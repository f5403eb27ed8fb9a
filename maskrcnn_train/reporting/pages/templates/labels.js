(() => {
  const gallery = document.getElementById("gallery"), form = gallery.querySelector("form");
  const cards = [...gallery.querySelectorAll(".card")];
  const shown = () => cards.filter(card => !card.hidden);
  let current = null;

  function filter() {
    const kind = form.elements.kind.value, name = form.elements.class.value;
    for (const card of cards) {
      const { kind: own, class: label, proposed } = card.dataset;
      card.hidden = (kind !== "all" && own !== kind) || (name !== "" && label !== name && proposed !== name);
    }
    const count = shown().length;
    form.querySelector("output").value = count === cards.length ? `${count} doubts` : `${count} of ${cards.length} doubts`;
  }

  function step(by) {
    const left = shown(), place = left.indexOf(current);
    current = left[place < 0 ? 0 : Math.min(Math.max(place + by, 0), left.length - 1)] ?? null;
    current?.focus({ preventScroll: true });
    current?.scrollIntoView({ block: "center" });
  }

  form.oninput = filter;
  form.onsubmit = event => event.preventDefault();
  for (const card of cards) card.onclick = () => { current = card; card.focus({ preventScroll: true }); };
  document.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const free = !event.target.matches("input"); // there the arrows choose a kind
    if (event.key === "j" || (free && event.key === "ArrowRight")) step(1);
    if (event.key === "k" || (free && event.key === "ArrowLeft")) step(-1);
    if (event.key === "h") gallery.classList.toggle("bare");
  };
  filter(); // a reloaded page may come with its choices kept
})();
