// Makes the form of a connection bridge quicker: says at once what is wrong, shows only what matters, adds and removes items.
// Everything here is repeated by the server, which has the last word; without JavaScript the form works as well.
"use strict";
(() => {
  const form = document.querySelector("form");
  if (!form) return;
  const touched = new WeakSet();

  // --- what is wrong with one field -----------------------------------------------------------------------------------------
  function problem(field) {
    const text = field.value.trim();
    const state = field.validity;
    if (state.badInput) return "A number is needed.";
    if (field.required && !text && field.type !== "checkbox") return "This is needed.";
    if (!text) return "";
    if (state.rangeUnderflow) return `At least ${field.min} is needed.`;
    if (state.rangeOverflow) return `At most ${field.max} is allowed.`;
    if (state.stepMismatch) return "A whole number is needed.";
    if (field.dataset.pattern && !matches(field.dataset.pattern, text)) return "This does not look right.";
    if (field.dataset.json && !isJson(text)) return "This is no JSON.";
    return "";
  }
  function matches(pattern, text) {
    try {
      return new RegExp(pattern, "u").test(text);
    } catch {
      return true; // Python's patterns are not all JavaScript's; the server knows
    }
  }
  function isJson(text) {
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  }
  function judge(field) {
    const place = document.getElementById(`${field.id}-error`);
    if (!place || field.disabled) return "";
    const found = problem(field);
    place.textContent = found;
    if (found) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
    return found;
  }
  const fields = () => [...form.elements].filter((e) => e.id && e.willValidate && !e.disabled && e.tagName !== "BUTTON");

  form.addEventListener("focusout", (event) => {
    if (event.target.id && event.target.willValidate && (event.target.value || event.target.validity.badInput)) {
      touched.add(event.target);
      judge(event.target);
    }
  });
  form.addEventListener("input", (event) => {
    const field = event.target;
    if (touched.has(field) || field.getAttribute("aria-invalid") === "true") judge(field);
  });

  // --- variants: only the chosen one is there -------------------------------------------------------------------------------
  function choose(select) {
    const names = [...select.options].map((option) => option.value);
    for (const shape of form.querySelectorAll("[data-variant]")) {
      if (!names.includes(shape.dataset.variant)) continue;
      shape.hidden = shape.disabled = shape.dataset.variant !== select.value;
    }
  }
  form.addEventListener("change", (event) => {
    if (event.target.matches("[data-variants]")) choose(event.target);
  });

  // --- secrets: to be looked at while they are typed -------------------------------------------------------------------------
  function showable(within) {
    for (const input of within.querySelectorAll("input[type=password]")) {
      const box = document.createElement("div");
      box.className = "secretbox";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Show";
      button.setAttribute("aria-label", `Show ${input.id.replace(/^f-/, "").replace(/_/g, " ")}`);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        const shown = input.type === "password";
        input.type = shown ? "text" : "password";
        button.textContent = shown ? "Hide" : "Show";
        button.setAttribute("aria-pressed", String(shown));
      });
      input.replaceWith(box);
      box.append(input, button);
    }
  }

  // --- items ----------------------------------------------------------------------------------------------------------------
  function add(button) {
    const list = button.closest(".items");
    const count = list.querySelector(":scope > [data-count]");
    const template = list.querySelector(":scope > template");
    const index = Number(count.value);
    const holder = document.createElement("template");
    holder.innerHTML = template.innerHTML.replaceAll(`__${count.dataset.depth}__`, String(index));
    count.value = String(index + 1);
    const item = holder.content.firstElementChild;
    list.querySelector(":scope > [data-items]").append(item);
    ready(item);
    item.querySelector("input:not([type=hidden]), select, textarea")?.focus();
    say("Added.");
  }
  function remove(button) {
    const list = button.closest(".items");
    button.closest("[data-item]").remove();
    list.querySelector(":scope > [data-add]").focus();
    say("Removed.");
  }
  function say(text) {
    document.getElementById("status").textContent = text;
  }
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-add], [data-remove]");
    if (!button) return;
    event.preventDefault();
    if ("add" in button.dataset) add(button);
    else remove(button);
  });

  // --- sending --------------------------------------------------------------------------------------------------------------
  form.addEventListener("submit", (event) => {
    const main = form.querySelector(".main");
    const wrong = fields().filter((field) => {
      touched.add(field);
      return judge(field);
    });
    if (wrong.length || main.getAttribute("aria-busy") === "true") {
      event.preventDefault();
      const hidden = wrong[0]?.closest("details:not([open])");
      if (hidden) hidden.open = true;
      wrong[0]?.focus();
      return;
    }
    main.setAttribute("aria-busy", "true");
    main.dataset.word = main.textContent;
    main.textContent = main.dataset.busy;
    say("Checking");
  });
  window.addEventListener("pageshow", () => {
    const main = form.querySelector(".main");
    if (main.dataset.word) main.textContent = main.dataset.word;
    main.removeAttribute("aria-busy");
  });

  function ready(within) {
    showable(within);
    within.querySelectorAll("[data-variants]").forEach(choose);
  }
  ready(form);
  (form.querySelector("[autofocus]") || document.querySelector(".alert"))?.focus();
})();
