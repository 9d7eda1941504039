"use strict";
// Plays the frames and switches the lines of the charts; without it everything is still there, side by side.
(() => {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const root = document.documentElement;

  for (const fieldset of document.querySelectorAll(".switches")) {
    fieldset.hidden = false;
    for (const box of fieldset.querySelectorAll("input")) {
      const set = () => root.classList.toggle(`off${box.dataset.series}`, !box.checked);
      box.addEventListener("change", set);
      set();
    }
  }

  for (const film of document.querySelectorAll(".film")) {
    const strips = [...film.querySelectorAll(".strip")].map((image) => {
      const times = image.dataset.times.split(" ").map(Number);
      return { image, times, screen: image.parentElement, when: image.closest("figure").querySelector(".when") };
    });
    const moments = [...new Set(strips.flatMap((strip) => strip.times))].sort((a, b) => a - b);
    const controls = film.querySelector(".controls");
    const play = controls.querySelector(".play");
    const slider = controls.querySelector(".time");
    const view = controls.querySelector(".view");
    const now = controls.querySelector(".now");
    let timer = null;

    const told = (minutes) => `${minutes > 0 ? "+" : minutes < 0 ? "\u2212" : ""}${Math.abs(minutes)} min`;

    const show = () => {
      const moment = moments[Number(slider.value)];
      now.textContent = told(moment);
      slider.setAttribute("aria-valuetext", told(moment));
      for (const { image, times, screen, when } of strips) {
        if (!image.classList.contains("shown")) continue;
        const passed = times.filter((time) => time <= moment).length;
        screen.classList.toggle("ahead", passed === 0);
        image.style.transform = `translateX(${(-100 * Math.max(passed - 1, 0)) / times.length}%)`;
        const other = view && image.dataset.view && image.dataset.view !== view.value;
        when.textContent = (passed ? told(times[passed - 1]) : `from ${told(times[0])}`) + (other ? `, ${image.dataset.view}` : "");
      }
    };

    const choose = () => {
      for (const { image } of strips) {
        if (image.dataset.view) image.classList.toggle("shown", image.dataset.view === view.value);
      }
      // A method with fewer members than the choice keeps its last one.
      for (const screen of film.querySelectorAll(".screen")) {
        if (!screen.querySelector(".shown")) {
          const own = screen.querySelectorAll(".strip");
          const mean = view.value.startsWith("mean");
          own[mean ? own.length - 1 : Math.max(0, own.length - 2)].classList.add("shown");
        }
      }
      show();
    };

    const move = (by) => {
      slider.value = String((Number(slider.value) + by + moments.length) % moments.length);
      show();
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    };
    const start = () => {
      timer = setInterval(() => move(1), 600);
      play.textContent = "Pause";
    };

    for (const { image, times, screen } of strips) {
      image.style.width = `${100 * times.length}%`;
      screen.style.aspectRatio = `${image.getAttribute("width") / times.length} / ${image.getAttribute("height")}`;
    }
    slider.max = String(moments.length - 1);
    slider.value = String(Math.max(0, moments.findIndex((moment) => moment > 0)));
    controls.hidden = false;
    film.classList.add("live");
    play.addEventListener("click", () => (timer === null ? start() : stop()));
    controls.querySelector(".back").addEventListener("click", () => (stop(), move(-1)));
    controls.querySelector(".on").addEventListener("click", () => (stop(), move(1)));
    slider.addEventListener("input", () => (stop(), show()));
    if (view) view.addEventListener("change", choose);
    calm.addEventListener("change", () => calm.matches && timer !== null && stop());
    show();
    if (!calm.matches) start();
  }
})();
