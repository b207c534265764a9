// SPDX-License-Identifier: Apache-2.0
// Sends a file over TLS and writes what comes back into another, to its end. It
// wants new keys every 64 KiB.
import java.io.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import javax.net.ssl.*;

class Client {
    public static void main(String[] args) throws Exception {
        Security.setProperty("jdk.tls.keyLimits", "AES/GCM/NoPadding KeyUpdate 2^16");
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream ca = new FileInputStream(args[1])) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(ca));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        SSLSocket conn = (SSLSocket) context.getSocketFactory().createSocket(new java.net.Socket("127.0.0.1", Integer.parseInt(args[0])), "a.example", -1, true);
        conn.setEnabledProtocols(new String[] {"TLSv1.3"});
        byte[] up = Files.readAllBytes(Path.of(args[2]));
        Thread sender = new Thread(() -> {
            try {
                conn.getOutputStream().write(up);
                conn.shutdownOutput();
            } catch (IOException e) {
                e.printStackTrace();
                System.exit(1);
            }
        });
        sender.start();
        Files.copy(conn.getInputStream(), Path.of(args[3]));
        sender.join();
    }
}
