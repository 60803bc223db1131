/** Shows the join form, then the call, then the form again. */
import './style.css';
import { expose } from './handle';
import { type JoinChoice, Lobby } from './lobby';
import { Room } from './room';
import { forgetCall, readSettings, rememberCall, roomLink } from './settings';

const page = document.querySelector('#page');
const first = readSettings(new URL(location.href), localStorage, sessionStorage);

expose(undefined);
if (first.autojoin) enter({ settings: first, tracks: new Map() });
else wait(undefined);

function wait(message: string | undefined): void {
  const settings = { ...readSettings(new URL(location.href), localStorage, sessionStorage), autojoin: false };
  document.title = 'Tureen';
  const lobby = new Lobby(settings, message, enter);
  page?.replaceChildren(lobby.element);
  lobby.focus();
}

function enter(choice: JoinChoice): void {
  const { settings } = choice;
  rememberCall(settings, localStorage, sessionStorage);
  // An address with a token stays: a reload needs it.
  const { searchParams } = new URL(location.href);
  if (settings.token === undefined && searchParams.get('roomId') !== settings.roomId) {
    history.replaceState(null, '', roomLink(new URL(location.href), settings.roomId));
  }
  document.title = `${settings.roomId} · Tureen`;
  const room = new Room(choice, (reason) => {
    forgetCall(sessionStorage);
    wait(reason ?? 'You have left. Come back any time.');
  });
  page?.replaceChildren(room.element);
  room.start();
}
