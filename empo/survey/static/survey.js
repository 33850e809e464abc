// Number fields become sliders. A slider is unset until it is moved or clicked.
"use strict";
const form = document.getElementById("ratings");

function slider(number) {
  const range = document.createElement("input");
  range.type = "range";
  for (const name of ["min", "max", "step"]) range[name] = number[name];
  range.setAttribute("aria-label", number.getAttribute("aria-label"));
  if (number.hasAttribute("aria-describedby")) {
    range.setAttribute("aria-describedby", number.getAttribute("aria-describedby"));
  }
  const output = document.createElement("output");
  output.setAttribute("aria-hidden", "true");
  const show = () => {
    const set = number.value !== "";
    range.classList.toggle("unset", !set);
    output.value = set ? number.value : form.dataset.unset;
    range.setAttribute("aria-valuetext", output.value);
  };
  const take = () => {
    number.value = range.value;
    show();
    const wrong = number.closest("fieldset").querySelector(".wrong");
    if (wrong) wrong.remove();
  };
  range.value = number.value === "" ? (Number(range.max) + Number(range.min)) / 2 : number.value;
  range.addEventListener("input", take);
  range.addEventListener("click", take); // on the very place where the slider stands
  range.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      take();
    }
  });
  number.type = "hidden";
  number.before(range);
  number.closest("fieldset").querySelector(".ends").before(output);
  show();
  return { number, range };
}

const sliders = [...form.querySelectorAll("input[type=number]")].map(slider);
form.noValidate = true;
form.addEventListener("submit", (event) => {
  const missing = sliders.filter(({ number }) => number.value === "");
  for (const { number, range } of missing) {
    const fieldset = number.closest("fieldset");
    if (fieldset.querySelector(".wrong")) continue;
    const text = document.createElement("p");
    text.className = "wrong";
    text.id = `wrong-${number.name}`;
    text.textContent = form.dataset.missing;
    range.setAttribute("aria-describedby", text.id);
    fieldset.querySelector("legend").after(text);
  }
  if (missing.length) {
    event.preventDefault();
    missing[0].range.focus();
    missing[0].number.closest("fieldset").scrollIntoView({ block: "center" });
  }
});
