(() => {
  "use strict";
  // Whatever a model said is read as text and written as text: no markup is ever made of it.
  const BEFORE = 200, WORD = 24, WORDS = 300;
  const $ = (root, query) => root.querySelector(query);

  const button = $(document, "button.copy"), said = $(document, ".copied");
  if (button) {
    const line = $(document, ".reproduce");
    const copy = async () => {
      try {
        await navigator.clipboard.writeText(line.textContent);
        return true;
      } catch {
        getSelection().selectAllChildren(line);
        return document.execCommand("copy");
      }
    };
    button.hidden = false;
    button.addEventListener("click", async () => {
      said.textContent = (await copy()) ? "Copied" : "Selected: copy it with the keyboard";
      setTimeout(() => { said.textContent = ""; }, 4000);
    });
  }

  const wholeWord = (a, b) => {
    let cut = 0;
    while (cut < a.length && cut < b.length && a[cut] === b[cut]) cut++;
    if (cut === Math.max(a.length, b.length)) return cut;
    const back = a.slice(0, cut).lastIndexOf(" ");
    return back >= Math.max(0, cut - WORD) ? back + 1 : cut;
  };
  const pieces = text => text.match(/\S+|\s+/g) || [];
  const common = (a, b) => {
    // The longest common subsequence of words: for each side, which words the other has too.
    const width = b.length + 1, length = new Uint16Array((a.length + 1) * width), both = [new Set(), new Set()];
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        length[i * width + j] = a[i] === b[j] ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    for (let i = 0, j = 0; i < a.length && j < b.length;)
      if (a[i] === b[j]) { both[0].add(i++); both[1].add(j++); }
      else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
      else j++;
    return both;
  };
  const write = (place, words, both, none) => {
    place.replaceChildren(...words.map((word, n) => {
      if (n >= WORDS || both.has(n) || !word.trim()) return document.createTextNode(word);
      const mark = document.createElement("mark");
      mark.textContent = word;
      return mark;
    }));
    if (!words.length) place.textContent = none;
  };

  const compare = diff => {
    const texts = diff.closest(".texts"), [left, right] = diff.querySelectorAll("select");
    const [a, b] = [left, right].map(select => {
      const held = texts.querySelectorAll(".text")[select.selectedIndex];
      return { name: select.value, says: held.dataset.says, samples: held.dataset.samples, leaves: held.dataset.leaves, text: $(held, ".words").textContent };
    });
    const alike = a.text !== b.text ? "" : a.says === b.says ? "Their texts are equal" : "They part after what is shown here";
    const unit = diff.dataset.unit, at = [a, b].filter(one => one.leaves !== "").map(one => Number(one.leaves));
    const start = wholeWord(a.text, b.text), one = pieces(a.text.slice(start)), other = pieces(b.text.slice(start));
    const both = common(one.slice(0, WORDS), other.slice(0, WORDS));
    $(diff, ".before").textContent = a.text.slice(Math.max(0, start - BEFORE), start);
    $(diff, ".fork-mark").textContent = a.name === b.name ? `${a.name} is compared with itself: pick another`
      : a.leaves !== b.leaves ? `Fork: ${a.name} and ${b.name} part at ${unit} ${Math.min(...at)}${alike && `. ${alike}`}`
      : `Fork: both leave the most common one at ${unit} ${a.leaves}${alike ? `. ${alike}` : "; this is where their texts part"}`;
    diff.querySelectorAll(".two > div").forEach((side, n) => {
      const which = [a, b][n];
      $(side, "h4").textContent = `${which.name} · ${which.samples} sample${which.samples === "1" ? "" : "s"}`;
      write($(side, ".words"), n ? other : one, both[n], alike ? "" : "(ends here)");
    });
  };
  for (const diff of document.querySelectorAll(".diff")) {
    $(diff, ".controls").hidden = false;
    diff.addEventListener("change", () => compare(diff));
  }

  // Older browsers print closed details closed, whatever the style says.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
