"""The public names of the Pascal units for WebSockets, as their interface sections have them.

Read in the public versions of ``mormot.net.ws.core``, ``.client``, ``.server`` and ``.async``, up
to those of 2026, and in programs that use later ones. Names only: what they mean is on the page
``docs/reference/pascal-names.md``.
"""

from __future__ import annotations

#: by type, its public and published members; '' has the types, constants, variables and functions
INTERFACE: dict[str, str] = {
    "": """
        EWebSockets TWebSocketFrameOpCode TWebSocketFrameOpCodes TWebSocketFramePayload
        TWebSocketFramePayloads TWebSocketFrame PWebSocketFrame TWebSocketFrameDynArray
        FRAME_OPCODE_FIN FRAME_LEN_MASK FRAME_LEN_2BYTES FRAME_LEN_8BYTES ToText FrameInit
        FrameSendEncode ComputeChallenge TWebSocketProcessSettingsLogDetails
        PWebSocketProcessSettings TWebSocketProcessSettings TOnWebSocketProtocolIncomingFrame
        TWebSocketProtocol TWebSocketProtocolRest TWebSocketProtocolClass TWebSocketProtocolJson
        TWebSocketProtocolBinary TOnWebSocketProtocolUpgraded TOnWebSocketProtocolClosed
        TWebSocketProtocolList TWebSocketProcessOne TWebSocketProcessNotifyCallback
        TWebSocketFrameList TWebSocketProtocolUri TWebSocketProtocolUriClass
        TWebSocketProcessState TWebSocketProcess TWebCrtSocketProcess TFrameHeader
        TWebProcessInFrameState TWebProcessInFrame TWebSocketFrameEncoder
        TOnWebSocketProtocolChatIncomingFrame TWebSocketProtocolChat WebSocketLog
        WebSocketsBinarySynLzThreshold WebSocketsMaxFrameMB
        TEngineIOPacket PEngineIOPacket TSocketIOPacket PSocketIOPacket TSocketIOAckID
        TSocketIOMessage SIO_NO_ACK SIO_BINARY JSON_SOCKETIO EEngineIO ESocketIO TOnSocketIOAck
        TSocketIOCallback PSocketIOCallback TOnSocketIOEvent TOnSocketIOMethod TEngineIOAbstract
        TSocketIONamespace PSocketIONamespace TSocketIORemoteNamespace PSocketIORemoteNamespace
        TSocketIORemoteNamespaces TEventHandler PEventHandler TLocalNamespaceEventHandlers
        TSocketIOLocalNamespaceOption TSocketIOLocalNamespaceOptions TSocketIOLocalNamespace
        PSocketIOLocalNamespace TSocketIOLocalNamespaces TSocketIOLocalNamespaceClass
        TWebSocketEngineIOProtocol TWebSocketSocketIOProtocol EngineIOHandshakeUri
        EngineIOSendPacket SocketIOReserved SocketIOSendPacket SocketIOGetNameSpace
        SocketIOGetNameSpaces
        TOnWebSocketReconnect TWebSocketProcessClient TWebSocketProcessClientThreadState
        TWebSocketProcessClientThread THttpClientWebSockets TSocketsIOClientOption
        TSocketsIOClientOptions SCI_DEFAULT TSocketsIOWaitEventPacket TOnSocketsIOClient
        TSocketsIOClient TSocketsIOClientClass TWebSocketSocketIOClientProtocol
        TWebSocketProcessServer TWebSocketProcessServerClass TWebSocketServerSocket
        TWebSocketServerResp TOnWebSocketServerEvent TWebSocketServer TWebSocketServerRest
        TOnWebSocketAsyncServerEvent TWebSocketAsyncProcess TWebSocketAsyncProcessClass
        TWebSocketAsyncConnection TWebSocketAsyncConnections TWebSocketAsyncServer
        TWebSocketAsyncServerRest""",
    "TWebSocketFrameOpCode": """
        focContinuation focText focBinary focReserved3 focReserved4 focReserved5 focReserved6
        focReserved7 focConnectionClose focPing focPong focReservedB focReservedC focReservedD
        focReservedE focReservedF""",
    "TWebSocketFramePayload": "fopAlreadyCompressed",
    "TWebSocketFrame": "opcode content tix payload",
    "TWebSocketProcessSettingsLogDetails": """
        logHeartbeat logTextFrameContent logBinaryFrameContent logCallback""",
    "TWebSocketProcessSettings": """
        HeartbeatDelay LoopDelay SendDelay DisconnectAfterInvalidHeartbeatCount
        CallbackAcquireTimeOutMS CallbackAnswerTimeOutMS OnClientConnected OnClientDisconnected
        ClientAutoUpgrade ClientRestoreCallbacks LogDetails NotifyAllFrames AesSalt AesRounds
        AesCipher AesBits EcdheCipher EcdheAuth EcdheRounds SetDefaults SetFullLog""",
    "TWebSocketProtocol": """
        Create Clone Reset GetSubprotocols SetSubprotocol IsSubprotocol SetName SetEncryptKey
        SetEncryptKeyAes SetEncryptKeyEcdhe ProcessHandshake ProcessHandshakeUri
        OnBeforeIncomingFrame Encryption ConnectionFlags ConnectionID ConnectionOpaque
        RemoteLocalhost Name Uri RemoteIP UpgradeUri UpgradeBearerToken LastError Encrypted
        FramesInCount FramesOutCount FramesInBytes FramesOutBytes AfterUpgrade
        ProcessIncomingFrame SendFrames AfterGetFrame BeforeSendFrame FrameData FrameType""",
    "TWebSocketProtocolRest": """
        FrameCompress FrameDecompress InputToFrame FrameToInput FrameToOutput OutputToFrame""",
    "TWebSocketProtocolJson": "Create Clone SendFrames",
    "TWebSocketProtocolBinary": """
        Create Clone GetSubprotocols SetSubprotocol Options FramesInBytesSocket
        FramesOutBytesSocket FramesInCompression FramesOutCompression""",
    "TWebSocketProtocolList": """
        Add AddOnce Remove CloneByName CloneByUri Count ServerUpgrade OnUpgraded""",
    "TWebSocketProcessOne": "wspNone wspPing wspDone wspAnswer wspError wspClosed",
    "TWebSocketProcessNotifyCallback": """
        wscBlockWithAnswer wscBlockWithoutAnswer wscNonBlockWithoutAnswer""",
    "TWebSocketFrameList": "List Count Create Push PushVoidFrame Pop AnswerToIgnore",
    "TWebSocketProtocolUri": """
        Create ProcessHandshakeUri Clone NewUri Generator RecordData RecordTypeInfo PublicUri
        Session Created""",
    "TWebSocketProcessState": "wpsCreate wpsRun wpsClose wpsDestroy",
    "TWebSocketProcess": """
        Create Reset ReceiveBytes SendBytes CanGetFrame GetFrame SendFrame SendFrameAsync
        NotifyCallback Shutdown State RemoteIP Settings Incoming Outgoing OwnerThread ProcessCount
        ConnectionCloseWasSent Protocol ProcessName InvalidPingSendCount ProcessStart ProcessStop
        ProcessLoop ProcessLoopStepReceive ProcessLoopReceived ProcessLoopStepSend ComputeContext
        LastPingDelay SetLastPingTicks SendPing MarkAsInvalid SendPendingOutgoingFrames
        WaitThreadStarted HiResDelay Log""",
    "TWebCrtSocketProcess": "Create CanGetFrame ReceiveBytes SendBytes Socket",
    "TFrameHeader": "first len8 len32 len64 mask",
    "TWebProcessInFrameState": "pfsHeader1 pfsData1 pfsHeaderN pfsDataN pfsDone pfsError",
    "TWebProcessInFrame": """
        hdr opcode masked state process outputframe len data Init HasBytes GetHeader GetData
        Step""",
    "TWebSocketFrameEncoder": "hdr hdrlen len Prepare Encode",
    "TWebSocketProtocolChat": "Create Clone SendFrame SendFrameJson OnIncomingFrame",
    "TEngineIOPacket": "eioOpen eioClose eioPing eioPong eioMessage eioUpgrade eioNoop",
    "TSocketIOPacket": """
        sioConnect sioDisconnect sioEvent sioAck sioConnectError sioBinaryEvent sioBinaryAck""",
    "TSocketIOMessage": """
        Init InitBuffer NameSpaceIs NameSpaceGet NameSpaceShort DataGet DataIs RaiseESockIO
        PacketType ID BinaryAttachment NameSpace NameSpaceLen Sender""",
    "TSocketIOCallback": "Ack OnAck",
    "TEngineIOAbstract": "Create EngineSid Version PingTimeout PingInterval MaxPayload",
    "TSocketIONamespace": "Owner NameSpace",
    "TSocketIORemoteNamespace": """
        Create CreateFromConnectMessage SendEvent Acknowledge HandshakeData Sid""",
    "TEventHandler": "Name OnEvent OnMethod",
    "TSocketIOLocalNamespaceOption": "snoIgnoreUnknownEvent snoIgnoreIncorrectData",
    "TSocketIOLocalNamespace": """
        OnEventReceived Create RegisterEvent RegisterPublishedMethods RegisterFrom HandleEvent
        Handler Options""",
    "TWebSocketEngineIOProtocol": "GetSubprotocols SetSubprotocol Opened",
    "TWebSocketProcessClient": "Create OnReconnect ConnectionID",
    "TWebSocketProcessClientThreadState": "sCreate sRun sFinished sClosed",
    "TWebSocketProcessClientThread": "Create Execute DoExecute",
    "THttpClientWebSockets": """
        WebSocketsConnect Create Request WebSocketsUpgrade Settings OnCallbackRequestProcess
        OnWebSocketsClosed OnBeforeIncomingFrame WebSockets SetReceiveTimeout ReceiveTimeout""",
    "TSocketsIOClientOption": """
        sciIgnoreUnknownEvent sciIgnoreUnknownAck sciEmitAutoConnect sciAutoReconnect""",
    "TSocketsIOWaitEventPacket": "wepNone wepConnect wepEmit",
    "TSocketsIOClient": """
        OnAfterOpen OnNamespaceConnected OnReceivedEvent OnLostConnection OnBeforeReconnectUpgrade
        OnBeforeReconnectConnect Open RemoteNames LocalNames Local LocalEvent
        LocalPublishedMethods Connect Disconnect Emit Discard Options DefaultWaitTimeoutSec
        OwnedClient Remotes Locals""",
    "TWebSocketSocketIOClientProtocol": "Reset",
    "TWebSocketServerSocket": "Close NotifyCallback WebSocketProtocol WebSocketProcess",
    "TWebSocketServerResp": "_NotifyCallback Shutdown",
    "TWebSocketServer": """
        Create WebSocketBroadcast IsActiveWebSocket Settings ProcessClass WebSocketConnections
        WebSocketProtocols OnWebSocketUpgraded OnWebSocketConnect OnWebSocketDisconnect
        OnWebSocketClose DoUpgrade DoConnect DoDisconnect WebSocketProcessUpgrade Process""",
    "TWebSocketServerRest": "Create WebSocketsEnable Callback",
    "TWebSocketAsyncProcess": "Create CanGetFrame ReceiveBytes SendBytes SendFrameAsync Connection",
    "TWebSocketAsyncServer": """
        Create Settings WebSocketBroadcast WebSocketProtocols ProcessClass OnWebSocketConnect
        OnWebSocketDisconnect DoUpgrade DoConnect DoDisconnect""",
    "TWebSocketAsyncServerRest": "Create WebSocketsEnable Callback",
}
