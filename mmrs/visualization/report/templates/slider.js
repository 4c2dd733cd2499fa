// The pictures lie on one another; at k + f, the left part f shows picture k + 1 and the rest picture k.
document.documentElement.classList.add('script');
for (const figure of document.querySelectorAll('.pictures')) {
  const layers = [...figure.querySelectorAll('.layer')];
  const [input, shown, stack] = ['input', 'output', '.stack'].map(part => figure.querySelector(part));
  const names = layers.map(layer => layer.querySelector('span').textContent);
  const show = () => {
    const value = Number(input.value), lower = Math.min(Math.floor(value), layers.length - 1);
    const share = Math.round(100 * (value - lower));
    layers.forEach((layer, k) => {
      const picture = layer.querySelector('img');
      layer.hidden = !(k === lower || (k === lower + 1 && share));
      picture.style.clipPath = k === lower ? `inset(0 0 0 ${share}%)` : `inset(0 ${100 - share}% 0 0)`;
    });
    input.setAttribute('aria-valuetext',
      share ? `${names[lower + 1]} on the left ${share} %, ${names[lower]} on the right` : names[lower]);
    stack.style.setProperty('--edge', share ? `${share}%` : '-1%');
    shown.textContent = share ? `${names[lower + 1]} | ${names[lower]}` : names[lower];
  };
  input.addEventListener('input', show);
  show();
}
