"""How the report looks and moves: one style sheet and one small script, both inside the page."""

from xwam.colours import IMAGINED_RGB, REAL_RGB, css

STYLE = f"""
:root {{ --real: {css(REAL_RGB)}; --imagined: {css(IMAGINED_RGB)}; --ink: #1d2430; --faint: #5b6472;
  --line: #dfe3e8; --paper: #fff; --ground: #f5f6f8; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 .2rem; }}
h2 {{ font-size: 1.3rem; margin: 2.5rem 0 .3rem; }}
h3 {{ font-size: 1rem; margin: 0; }}
p {{ margin: .3rem 0; }}
.faint, figcaption, .note {{ color: var(--faint); font-size: .9rem; }}
.card {{ background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem;
  margin: .8rem 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0; }}
.tile {{ background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }}
.tile b {{ display: block; font-size: 1.5rem; line-height: 1.3; font-weight: 650; white-space: nowrap; }}
.tile small {{ font-size: .65em; font-weight: 500; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .8rem; }}
.charts .card {{ margin: 0; }}
figure {{ margin: 0; min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }}
svg text {{ fill: var(--faint); }}
.badge {{ display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem; font-weight: 600;
  vertical-align: .15em; border: 1.5px solid; }}
.success {{ color: #00573d; background: #e3f4ec; border-color: #00805a; }}
.failure {{ color: #6b4400; background: #fdf1dc; border-color: #a86a00; }}
.head {{ display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; justify-content: space-between; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; margin: .6rem 0; }}
.strip {{ position: relative; overflow: hidden; border-radius: .35rem; background: #eee; }}
.strip img {{ position: absolute; inset: 0; width: 100%; height: 100%; visibility: hidden; }}
.strip img.on {{ visibility: visible; }}
.strip.over img {{ opacity: .25; filter: grayscale(1); }}
.strip.over::after {{ content: "not recorded this far"; position: absolute; inset: 0; display: grid;
  place-items: center; text-align: center; font-size: .9rem; color: var(--ink); padding: .5rem; }}
div.world iframe {{ width: 100%; height: 34rem; max-height: 80vh; border: 1px solid var(--line); border-radius: .35rem;
  margin: .6rem 0 0; }}
.wide {{ overflow-x: auto; }}
th {{ text-align: left; font-weight: 600; padding: .3rem .8rem .3rem 0; vertical-align: bottom; }}
.real {{ color: var(--real); font-weight: 600; }}
.imagined {{ color: var(--imagined); font-weight: 600; }}
.views {{ display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; text-align: center; }}
.player {{ display: flex; gap: .8rem; align-items: center; }}
.player input {{ flex: 1; min-width: 0; accent-color: var(--ink); height: 1.8rem; }}
.player output {{ min-width: 5.5em; font-variant-numeric: tabular-nums; }}
button, a.page {{ font: inherit; font-size: .9rem; color: var(--ink); background: var(--paper); cursor: pointer;
  border: 1px solid #9aa3af; border-radius: .4rem; padding: .3rem .8rem; text-decoration: none; white-space: nowrap; }}
button:hover, a.page:hover {{ background: #eef1f5; }}
:focus-visible {{ outline: 3px solid var(--real); outline-offset: 2px; }}
.stage {{ display: flex; height: 1.5rem; border-radius: .3rem; overflow: hidden; margin: .15rem 0 .1rem; }}
.stage span {{ min-width: 1px; }}
.key {{ display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .35em 0 .8em; }}
table {{ border-collapse: collapse; font-size: .9rem; width: 100%; }}
td {{ border-top: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; overflow-wrap: anywhere; }}
td:first-child {{ color: var(--faint); white-space: nowrap; }}
@media (max-width: 44rem) {{
  body {{ font-size: 15px; }}
  .pair {{ grid-template-columns: 1fr; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  .tile b {{ font-size: 1.3rem; }}
}}
"""

SCRIPT = """
for (const button of document.querySelectorAll("button.world")) {
  const card = button.closest(".card"), place = card.querySelector("div.world");
  button.addEventListener("click", async () => {
    if (place.firstChild) { place.textContent = ""; button.textContent = "Show in 4D"; return; }
    const packed = atob(card.querySelector("script[type='application/gzip']").textContent);
    const bytes = Uint8Array.from(packed, letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const frame = document.createElement("iframe");
    frame.title = "the imagined world in 4D";
    frame.srcdoc = await new Response(stream).text();
    place.append(frame);
    frame.scrollIntoView({ block: "nearest" });
    button.textContent = "Hide";
  });
}
for (const card of document.querySelectorAll("[data-frames]")) {
  const slider = card.querySelector("input"), button = card.querySelector(".player button");
  const time = card.querySelector("output"), strips = card.querySelectorAll(".strip");
  const show = () => {
    const step = Number(slider.value);
    for (const strip of strips) {
      const frames = strip.children, shown = Math.min(step, frames.length - 1);
      for (let i = 0; i < frames.length; i++) frames[i].classList.toggle("on", i === shown);
      strip.classList.toggle("over", step >= frames.length);
    }
    time.value = step === 0 ? "now" : `in ${(step / card.dataset.hz).toFixed(1)} s`;
    slider.setAttribute("aria-valuetext", time.value);
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    button.textContent = "Pause";
    timer = setInterval(() => {
      slider.value = (Number(slider.value) + 1) % Number(card.dataset.frames);
      show();
    }, 1000 / card.dataset.hz);
  });
  slider.addEventListener("input", () => { stop(); show(); });
  show();
}
"""
