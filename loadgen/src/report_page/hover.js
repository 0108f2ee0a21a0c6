// The values under the pointer. Without this the page says the same, only less comfortably.
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg");
  if (!svg) continue;
  const lines = [...svg.querySelectorAll(".line")].map((path) => ({
    name: path.dataset.name,
    colour: [...path.classList].find((name) => /^s\d$/.test(name)).replace("s", "k"),
    values: path.dataset.values.split(";").filter(Boolean).map((value) => {
      const [x, y, shown, number] = value.split(",");
      return { x: +x, y: +y, shown, number: +number };
    }),
  }));
  const tip = figure.appendChild(document.createElement("div"));
  tip.className = "tip";
  const cross = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  cross.setAttribute("class", "cross");
  const digits = (number) => (number >= 100 ? Math.round(number).toLocaleString("en") : +number.toPrecision(3));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const near = (line) => line.values.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
    const found = lines.filter((line) => line.values.length).map((line) => ({ line, value: near(line) }));
    if (!found.length) return;
    const nearest = found.reduce((a, b) => (Math.abs(b.value.x - x) < Math.abs(a.value.x - x) ? b : a)).value;
    cross.setAttribute("d", `M${nearest.x} 14V260`);
    tip.replaceChildren();
    tip.append(`${nearest.shown} ${svg.dataset.x.startsWith("s") ? "s" : ""}`);
    for (const { line, value } of found.filter(({ value }) => Math.abs(value.x - nearest.x) < 12)) {
      const row = tip.appendChild(document.createElement("div"));
      const name = row.appendChild(document.createElement("span"));
      name.className = line.colour;
      name.textContent = `${line.name}  `;
      row.appendChild(document.createElement("b")).textContent = digits(value.number);
    }
    tip.style.display = "block";
    const left = event.clientX - figure.getBoundingClientRect().left;
    tip.style.left = left > box.width / 2 ? `${left - tip.offsetWidth - 14}px` : `${left + 14}px`;
    tip.style.top = "48px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.style.display = "none";
    cross.setAttribute("d", "");
  });
}
