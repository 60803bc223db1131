/** An SDP offer out of what a WebRtcTransport and its Consumers say: for a browser that only watches, without mediasoup-client. */

/**
 * `setup` is the DTLS role that the answerer may choose from: `actpass` (it will be client), or `active` (it must be
 * server).
 */
export function offerOf({ iceParameters, iceCandidates, dtlsParameters }, consumers, setup = 'actpass') {
  const [{ algorithm, value }] = dtlsParameters.fingerprints.filter(
    ({ algorithm }) => algorithm === 'sha-256',
  );
  const mids = consumers.map(({ rtpParameters }) => rtpParameters.mid);
  return [
    ...['v=0', 'o=- 1 1 IN IP4 0.0.0.0', 's=-', 't=0 0', 'a=ice-lite'],
    `a=fingerprint:${algorithm} ${value}`,
    `a=group:BUNDLE ${mids.join(' ')}`,
    ...consumers.flatMap((consumer) => [
      ...section(consumer),
      `a=setup:${setup}`,
      `a=ice-ufrag:${iceParameters.usernameFragment}`,
      `a=ice-pwd:${iceParameters.password}`,
      ...iceCandidates.map(candidate),
      'a=end-of-candidates',
    ]),
    '',
  ].join('\r\n');
}

function section({ kind, rtpParameters }) {
  const { mid, codecs, headerExtensions, encodings, rtcp } = rtpParameters;
  const [{ ssrc, rtx }] = encodings;
  return [
    `m=${kind} 7 UDP/TLS/RTP/SAVPF ${codecs.map(({ payloadType }) => payloadType).join(' ')}`,
    ...['c=IN IP4 127.0.0.1', `a=mid:${mid}`, 'a=sendonly', 'a=rtcp-mux', 'a=rtcp-rsize'],
    ...codecs.flatMap(codec),
    ...headerExtensions.map(({ id, uri }) => `a=extmap:${id} ${uri}`),
    ...(rtx ? [`a=ssrc-group:FID ${ssrc} ${rtx.ssrc}`] : []),
    ...[ssrc, ...(rtx ? [rtx.ssrc] : [])].map((one) => `a=ssrc:${one} cname:${rtcp.cname}`),
    `a=msid:stream ${kind}`,
  ];
}

function codec({ mimeType, payloadType, clockRate, channels, parameters, rtcpFeedback }) {
  const name = mimeType.split('/')[1];
  const settings = Object.entries(parameters ?? {}).map(([key, value]) => `${key}=${value}`);
  return [
    `a=rtpmap:${payloadType} ${name}/${clockRate}${channels > 1 ? `/${channels}` : ''}`,
    ...(settings.length > 0 ? [`a=fmtp:${payloadType} ${settings.join(';')}`] : []),
    ...(rtcpFeedback ?? []).map(({ type, parameter }) =>
      `a=rtcp-fb:${payloadType} ${type} ${parameter ?? ''}`.trimEnd(),
    ),
  ];
}

function candidate({ foundation, protocol, priority, address, port, tcpType }) {
  return `a=candidate:${foundation} 1 ${protocol} ${priority} ${address} ${port} typ host${tcpType ? ` tcptype ${tcpType}` : ''}`;
}
