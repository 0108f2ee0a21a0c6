// The contestant `node-ws`: Node's `ws` as its documentation broadcasts, a loop over the sockets of a room.
//
// Usage: node server.js PORT. `/ws?room_id=R` subscribes to R, messages on `/pub?room_id=R` are published to R.
'use strict';

const { WebSocketServer } = require('ws');

const rooms = new Map();

function room(name) {
  let members = rooms.get(name);
  if (!members) {
    members = new Set();
    rooms.set(name, members);
  }
  return members;
}

const server = new WebSocketServer({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 });
server.on('connection', (socket, request) => {
  const url = new URL(request.url, 'http://localhost');
  const members = room(url.searchParams.get('room_id'));
  if (url.pathname === '/ws') {
    members.add(socket);
    socket.on('close', () => members.delete(socket));
  } else {
    socket.on('message', (data) => {
      for (const member of members) {
        member.send(data, { binary: false });
      }
    });
  }
  socket.on('error', () => {});
});
