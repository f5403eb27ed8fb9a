(() => {
  const gallery = document.getElementById("gallery"), form = gallery.querySelector("form");
  const grid = gallery.querySelector(".cards"), cards = [...grid.children];
  const viewer = document.querySelector("dialog.viewer"), stage = viewer.querySelector(".pair"), words = viewer.querySelector("p");
  let current = null;

  // the page holds every picture once: the predicted side gets the annotated side's
  for (const card of cards) {
    const [annotated, predicted] = card.querySelectorAll(".side");
    const image = annotated.querySelector("img").cloneNode();
    image.alt = image.alt.replace(/ with \d+ objects as annotated$/, ` with ${predicted.querySelectorAll("path").length} objects as predicted`);
    predicted.querySelector("b").after(image);
    card.objects = [...card.querySelectorAll("path")];
    card.errors = card.objects.filter(each => each.dataset.k !== "right").length;
  }
  const shown = () => [...grid.children].filter(card => !card.hidden);

  function filter() {
    const kind = form.elements.kind.value, label = form.elements.class.value;
    for (const card of cards) {
      let any = false;
      for (const each of card.objects) {
        const chosen = (kind === "all" || each.dataset.k === kind) && (label === "all" || each.dataset.c === label);
        each.classList.toggle("off", !chosen);
        any ||= chosen;
      }
      card.hidden = !any && (kind !== "all" || label !== "all");
    }
    const count = shown().length;
    form.querySelector("output").value = count === cards.length ? `${count} pictures` : `${count} of ${cards.length} pictures`;
    gallery.classList.toggle("plain", form.elements.fill.value === "plain");
    viewer.classList.toggle("plain", form.elements.fill.value === "plain");
  }

  function sort() {
    const by = { worst: card => +card.dataset.rank, best: card => -card.dataset.rank, errors: card => -card.errors };
    const key = by[form.elements.order.value];
    grid.append(...cards.sort((a, b) => key(a) - key(b)));
  }

  function label(svg) {
    const scale = svg.viewBox.baseVal.width / svg.clientWidth, height = svg.viewBox.baseVal.height;
    const taken = [svg.parentNode.querySelector("b").getBoundingClientRect()];
    for (const path of svg.querySelectorAll("path:not(.off)")) {
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text"), box = path.getBBox();
      const move = x => text.setAttribute("transform", `translate(${x} ${Math.min(box.y + 13 * scale, height - 4 * scale)}) scale(${scale})`);
      text.textContent = path.dataset.t;
      move(box.x + 2 * scale);
      svg.append(text);
      const beyond = text.getBoundingClientRect().right - svg.getBoundingClientRect().right;
      if (beyond > 0) move(box.x - (beyond + 2) * scale);
      const own = text.getBoundingClientRect(); // a name that would cover another is shown by a tap only
      if (taken.some(other => own.left < other.right && other.left < own.right && own.top < other.bottom && other.top < own.bottom)) text.remove();
      else taken.push(own);
    }
  }

  function show(card) {
    current = card;
    stage.replaceChildren(...[...card.querySelectorAll(".side")].map(side => side.cloneNode(true)));
    for (const image of stage.querySelectorAll("img")) image.loading = "eager";
    words.textContent = card.querySelector("figcaption").innerText.replace(/\s*\n\s*/g, " · ");
    if (!viewer.open) viewer.showModal();
    for (const svg of stage.querySelectorAll("svg")) label(svg);
  }

  function step(by) {
    const next = shown()[shown().indexOf(current) + by];
    if (next) show(next);
  }

  for (const card of cards) card.querySelector("button").onclick = () => show(card);
  form.oninput = () => { sort(); filter(); };
  form.onsubmit = event => event.preventDefault();
  viewer.onclick = event => {
    const object = event.target.closest("path.o");
    if (object) words.textContent = object.querySelector("title").textContent;
    const button = event.target.closest("button");
    if (event.target === viewer || button?.hasAttribute("data-close")) viewer.close();
    else if (button) step(+button.dataset.step);
  };
  viewer.onkeydown = event => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  };
  sort(); filter(); // a reloaded page may come with its choices kept
})();
