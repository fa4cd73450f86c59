// The shared worker: one connection for all pages of a browser, which allows only six to one host.

import { follow } from './follow.js';

const ports = new Set();
let last = null;

follow((message) => {
  last = message;
  for (const port of ports) port.postMessage(message);
});

addEventListener('connect', ({ ports: [port] }) => {
  port.addEventListener('message', ({ data }) => {
    if (data === 'bye') ports.delete(port);
    else ports.add(port);
    if (data === 'hello' && last) port.postMessage(last);
  });
  port.start();
});
