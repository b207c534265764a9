// SPDX-License-Identifier: Apache-2.0
// Sends an empty line over TLS and prints the line that comes back.
import java.io.*;
import java.security.*;
import java.security.cert.*;
import javax.net.ssl.*;

class Client {
    public static void main(String[] args) throws Exception {
        String name = args[1];
        System.setProperty("jdk.tls.namedGroups", args[4]);
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream ca = new FileInputStream(args[2])) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(ca));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        java.net.Socket raw = new java.net.Socket("127.0.0.1", Integer.parseInt(args[0]));
        try (SSLSocket conn = (SSLSocket) context.getSocketFactory().createSocket(raw, name, -1, true)) {
            SSLParameters parameters = conn.getSSLParameters();
            parameters.setProtocols(new String[] {"TLSv" + args[3]});
            parameters.setEndpointIdentificationAlgorithm("HTTPS"); // the name is checked
            conn.setSSLParameters(parameters);
            conn.getOutputStream().write('\n');
            System.out.println(new BufferedReader(new InputStreamReader(conn.getInputStream())).readLine());
        }
    }
}
